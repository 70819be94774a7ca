"""A connection that aiohttp serves within our limits: one request at a time, heads counted as they arrive.

aiohttp's parser reads everything, in pieces that end where a head or a body ends. So we know which bytes are an
unfinished head, and which came behind a request that is under way; those are not parsed yet.
"""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from eventstore.errors import LoopledgerError
from web.errors import HeadTooLargeError, MalformedError
from web.ingest.connection_limiter import Connection, ConnectionLimiter
from web.ingest.connections import END_OF_HEAD
from web.ingest.delivery import WEBHOOKS
from web.problems import problem_response
from web.request_ids import request_id_of
from web.responses import SERVER

# What aiohttp says of a head with more headers than it takes.
TOO_MANY_HEADERS = "Too many headers received"

# Bytes of a chunked body that are parsed at a time, so that other connections get their turn: tiny chunks take long to
# parse.
CHUNKED_TURN = 2048

# The most of aiohttp's words that a response repeats, in characters.
REPEATED = 100


class HandedConnection(RequestHandler):
    """One connection of aiohttp's."""

    __slots__ = (
        "_body",
        "_body_left",
        "_broken",
        "_connection",
        "_delivers",
        "_end",
        "_ended",
        "_going_on",
        "_head",
        "_held",
        "_limiter",
        "_unanswered",
        "idle_since",
    )

    def __init__(
        self, limiter: ConnectionLimiter, connection: Connection, server: web.Server
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **server._kwargs)  # noqa: SLF001 - see the version
        self._limiter = limiter
        self._connection = connection
        # Of the head that has begun: its size; and its last bytes, or those of a body in chunks.
        self._head = 0
        self._end = b""
        # Nothing that comes can be understood any more.
        self._broken = False
        # The body that is on its way, and how much of it is still to come; None: it comes in chunks.
        self._body: StreamReader | None = None
        self._body_left: int | None = None
        # Whether the request that came last is a delivery.
        self._delivers = False
        # Whether its sender sends no more.
        self._ended = False
        # Whether it has its turn soon.
        self._going_on = False
        # Requests that wait for their responses, and what came behind them.
        self._unanswered = 0
        self._held = b""
        self.idle_since = connection.owner.idle_since

    @property
    def sender_known(self) -> bool:
        """Whether it has brought a verified delivery."""
        return self._connection.known

    @sender_known.setter
    def sender_known(self, known: bool) -> None:
        if known and not self._connection.known:
            self._limiter.know(self._connection)

    def refuse_sender(self) -> None:
        """Note that it has brought a delivery that is not verified."""
        self._limiter.refuse(self._connection)

    @property
    def sender_ended(self) -> bool:
        """Whether its sender sends no more; mostly they are gone, and what is written meets nobody."""
        return self._ended

    def can_give_way(self, *, busy: bool) -> bool:
        """Whether no request is complete and waits for its response; or, if `busy`, no delivery."""
        if not self._unanswered or self._body is not None or self.writing_paused:
            return True
        return busy and not self._delivers

    def give_way(self, error: LoopledgerError) -> None:
        """Close the connection, with a response if there is a head to respond to."""
        transport = self.transport
        if transport is None:
            return
        if self._unanswered or self.writing_paused:
            transport.abort()
        elif self._head:
            self._limiter.dismiss(self._connection, error)
        else:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection out."""
        self._limiter.gone(self._connection)
        self._held = b""
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch whether the responses are read."""
        super().pause_writing()
        self._limiter.stall(self._connection)

    def resume_writing(self) -> None:
        """All was read."""
        super().resume_writing()
        self._limiter.flow(self._connection)

    def data_received(self, data: bytes) -> None:
        """Give aiohttp what it can use now."""
        if self._connection.left or self._broken:
            return
        if not data:
            # aiohttp goes on with what its parser has put back.
            super().data_received(data)
            self._go_on_soon()
        elif self._held or not self._is_ready():
            self._hold(data)
        else:
            self._feed(data)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio has it so, and aiohttp never waits
        """A sender that sends no more may still read: keep the connection until what is complete has its response."""
        self._ended = True
        return self._awaits_response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Respond, then go on with what came in the meantime."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._unanswered -= 1
            self.idle_since = self._loop.time()
            self._go_on_soon()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - as aiohttp has it
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to what aiohttp's parser does not take, and to what no handler has foreseen."""
        if request.writer.output_size > 0:
            raise ConnectionError
        error = exc if isinstance(exc, Exception) else RuntimeError(message)
        if isinstance(error, HttpProcessingError):
            self._limiter.counts["malformed"] += 1
            error = self._parser_problem(error)
        response = problem_response(error, request.method, request_id_of(request))
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ANN401 - as aiohttp has it
        """Ignore what is left of a body that nobody read."""
        if not isinstance(kw.get("exc_info"), RequestPayloadError):
            super().log_exception(*args, **kw)

    def _parser_problem(self, error: HttpProcessingError) -> LoopledgerError:
        if isinstance(error, LineTooLong) or error.message == TOO_MANY_HEADERS:
            return HeadTooLargeError(limit=self._limiter.limits.head_bytes)
        # The first line says what is wrong; the others repeat what was sent.
        return MalformedError(problem=error.message.partition("\n")[0].rstrip(":")[:REPEATED])

    def _resume_reading_if_drained(self) -> None:
        # aiohttp would read on when it takes a request, whatever is held behind that.
        if not self._held:
            super()._resume_reading_if_drained()

    def _is_ready(self) -> bool:
        """Whether aiohttp can use more now: a head, or of a body as much as is read."""
        return not self._unanswered if self._body is None else not self._reading_paused

    def _hold(self, data: bytes) -> None:
        self._held += data
        self._pause_reading_for_buffer()
        self._limiter.hold(self._connection, data, in_head=False)

    def _go_on_soon(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Go on with what is held, if it can be used now."""
        self._going_on = False
        if self._body is not None and self._body.is_eof():
            self._body = None
        self._use_held()
        if self._ended and not self._awaits_response and self.transport is not None:
            self.transport.close()

    @property
    def _awaits_response(self) -> bool:
        """Whether a request that came as a whole has no response yet."""
        return self._unanswered > 0 and self._body is None

    def _use_held(self) -> None:
        if not self._is_ready() or self._connection.left or self.transport is None:
            return
        if self._held:
            held, self._held = self._held, b""
            self._limiter.use(self._connection)
            self._feed(held)
        if not self._held and self._buffer_paused:
            self._resume_reading_for_buffer()

    def _feed(self, data: bytes) -> None:
        """Give aiohttp's parser the data, piece by piece, as far as it can be used now."""
        start = 0
        while start < len(data):
            if not self._is_ready():
                self._hold(data[start:])
                return
            if start >= CHUNKED_TURN and self._body is not None and self._body_left is None:
                self._hold(data[start:])
                self._go_on_soon()
                return
            if self._body is None:
                start += self._feed_head(data, start)
            else:
                start += self._feed_body(self._body, data, start)
            if self._connection.left or self._broken or self._force_close or self._close:
                return

    def _feed_head(self, data: bytes, start: int) -> int:
        """Feed what belongs to a head; says how much that was."""
        piece = self._up_to_end(data, start, len(data))
        limit = self._limiter.limits.head_bytes
        self._head += len(piece)
        if self._head > limit:
            self._limiter.counts["head_too_large"] += 1
            self._limiter.dismiss(self._connection, HeadTooLargeError(limit=limit))
        elif self._parse(piece):
            self._limiter.use(self._connection)
            self._head = 0
            self._begin(*self._messages[-1])
        else:
            self._limiter.hold(self._connection, piece, in_head=True)
        return len(piece)

    def _begin(self, message: Any, payload: StreamReader) -> None:  # noqa: ANN401 - one of two, both aiohttp's
        """Begin a request whose head is complete, or none that aiohttp understands."""
        self._unanswered += 1
        self._end = b""
        if not isinstance(message, RawRequestMessage):
            self._broken = True
            return
        self._delivers = message.path.startswith(WEBHOOKS)
        if not payload.is_eof():
            self._body = payload
            length = message.headers.get("Content-Length")
            self._body_left = None if message.chunked or length is None else int(length)

    def _feed_body(self, body: StreamReader, data: bytes, start: int) -> int:
        """Feed what belongs to a body; says how much that was."""
        if self._body_left is None:
            # Chunks end as a head does; there may be such ends in them too.
            piece = self._up_to_end(data, start, CHUNKED_TURN)
        else:
            piece = data[start : start + self._body_left]
            self._body_left -= len(piece)
        if self._parse(piece):
            self._unanswered += 1
            self._broken = True
            self._end_broken(body)
        elif body.is_eof():
            self._body = None
            self._end = b""
        return len(piece)

    def _end_broken(self, body: StreamReader) -> None:
        """Tell who reads a body that its rest is none: aiohttp lets them wait for it."""
        body.set_exception(RequestPayloadError())

    def _parse(self, piece: bytes) -> bool:
        """Have aiohttp's parser read a piece; says whether there is a request more, or an error."""
        requests = self._request_count
        super().data_received(piece)
        return self._request_count > requests

    def _up_to_end(self, data: bytes, start: int, most: int) -> bytes:
        """At most so many bytes up to the next end of a head, which may have begun in what came before."""
        stop = min(len(data), start + most)
        before = self._end
        found = (before + data[start : start + 3]).find(END_OF_HEAD)
        if found >= 0:
            end = start + found + len(END_OF_HEAD) - len(before)
        else:
            found = data.find(END_OF_HEAD, start, stop)
            end = found + len(END_OF_HEAD) if found >= 0 else stop
        piece = data[start:end]
        self._end = (before + piece)[-3:]
        return piece
