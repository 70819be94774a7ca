"""The gate: takes deliveries that come in one piece straight off their connections, and leaves the rest to aiohttp.

A small request comes as one segment, head and body at once. Until its COMMIT there is nothing to wait for, so no task
runs and neither request nor response is made for it: that would cost more than all else that is done for a delivery.
aiohttp's parser reads it all the same. At the first bytes that are anything else (a question, a body still on its way,
several requests at once, what is no HTTP), the connection becomes aiohttp's, for good.
"""

import asyncio
import socket
import time
from contextlib import suppress
from email.utils import formatdate
from typing import NamedTuple

import structlog
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import SERVER_SOFTWARE, HttpProcessingError, HttpRequestParser, HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from eventstore.limits import Limits
from eventstore.log.events import Appended
from web.ingest.receiver import Arrival, Handler, Ingest, acknowledgement
from web.problems import HeadTooSlowError, TooManyConnectionsError, problem_of

logger = structlog.get_logger()

WEBHOOKS = "/webhooks/"
BEGINNING = b"POST /webhooks/"
END_OF_HEAD = b"\r\n\r\n"
TAKEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

# More than one read brings: the parser never has to ask for a pause.
PARSER_BYTES = 1024 * 1024

# Seconds between two words in the log that connections are turned away.
WARNING_SECONDS = 60.0


class DeliveryServer:
    """What stands at the listening socket, and keeps to the limits of connections.

    `server` gets the connections that are aiohttp's; a body of more than `limits.body_bytes` is its business too. A
    connection may be idle for `idle_seconds`.
    """

    def __init__(
        self, ingest: Ingest, server: web.Server, limits: Limits, *, idle_seconds: float
    ) -> None:
        self.ingest = ingest
        self.server = server
        self.limits = limits
        self.idle_seconds = idle_seconds
        self.closing = False
        self._protocols: set[DeliveryProtocol] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._warned = -WARNING_SECONDS
        # The connections that are aiohttp's and have not brought a head as yet.
        self._headless: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._second = 0
        self._lines = b""

    def __call__(self) -> asyncio.Protocol:
        """Make what looks after a new connection."""
        return DeliveryProtocol(self, asyncio.get_running_loop())

    def entered(self, protocol: "DeliveryProtocol") -> None:
        """Take note of a new connection."""
        self._protocols.add(protocol)
        self._empty.clear()

    def is_full(self) -> bool:
        """Whether there are more connections than there may be."""
        limit = self.limits.connections
        if len(self._protocols) + len(self.server.connections) <= limit:
            return False
        now = time.monotonic()
        if now - self._warned >= WARNING_SECONDS:
            self._warned = now
            logger.warning("turned a connection away", connections=limit)
        return True

    def left(self, protocol: "DeliveryProtocol") -> None:
        """Take note that a connection is gone, or aiohttp's."""
        self._protocols.discard(protocol)
        if not self._protocols:
            self._empty.set()

    def hand_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """Give a connection to aiohttp.

        That waits for a head as long as a connection may be idle, and closes it without a word: here it gets less time.
        """
        handler = self.server()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        self._headless[transport] = asyncio.get_running_loop().call_later(
            self.limits.head_seconds, self._give_up, transport
        )
        handler.data_received(data)

    def before(self, handler: Handler) -> Handler:
        """Hear, before aiohttp's handler is called, that a head is complete."""

        async def heard(request: web.Request) -> web.StreamResponse:
            transport = request.transport
            if transport is not None and transport in self._headless:
                self._headless.pop(transport).cancel()
            return await handler(request)

        return heard

    def _give_up(self, transport: asyncio.Transport) -> None:
        del self._headless[transport]
        if not transport.is_closing():
            error = HeadTooSlowError(seconds=self.limits.head_seconds)
            transport.write(self.written(*_head_and_body(problem_of(error, "")), close=True))
            transport.close()

    async def close(self, seconds: float) -> None:
        """Close every connection once what it brought is answered, at the latest after so many seconds."""
        self.closing = True
        for timer in self._headless.values():
            timer.cancel()
        for protocol in tuple(self._protocols):
            protocol.close_if_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        for protocol in tuple(self._protocols):
            protocol.abort()

    def written(self, head: bytes, body: bytes, *, close: bool) -> bytes:
        """An answer as it goes over the line. `head` is without what all answers have."""
        return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (
            head,
            self._common_lines(),
            len(body),
            b"Connection: close\r\n" if close else b"",
            body,
        )

    def _common_lines(self) -> bytes:
        """The lines that the head of every answer has (RFC 9110, 6.6.1 and 10.2.4); they change once a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            date = formatdate(second, usegmt=True)
            self._lines = f"Date: {date}\r\nServer: {SERVER_SOFTWARE}\r\n".encode()
        return self._lines


class _Place(NamedTuple):
    """Where a path leads: a provider, and the secret behind it."""

    path: str
    provider: str
    secret: str | None


class DeliveryProtocol(BaseProtocol):
    """One connection, as long as it brings whole deliveries."""

    __slots__ = (
        "_address",
        "_arrival",
        "_body",
        "_busy",
        "_close",
        "_gate",
        "_held",
        "_idle_since",
        "_place",
        "_reader",
        "_reading_paused",
        "_timer",
    )

    def __init__(self, gate: DeliveryServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._gate = gate
        # It stops at the second of several requests: all of a segment at once would hold the loop up, uncounted.
        self._reader = HttpRequestParser(
            self, loop, PARSER_BYTES, auto_decompress=False, max_msg_queue_size=2
        )
        self._address = ""
        self._place = _Place("", "", None)
        self._arrival: Arrival | None = None
        self._body = b""
        # A delivery is under way; what came after it is held; nothing is read meanwhile.
        self._busy = False
        self._held = b""
        self._reading_paused = False
        self._close = False
        self._idle_since = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0] if isinstance(peer, tuple) else peer or "")
        self._timer = self._loop.call_later(self._gate.idle_seconds, self._look)
        self._gate.entered(self)
        if self._gate.is_full():
            self._close = True
            error = TooManyConnectionsError(limit=self._gate.limits.connections)
            self._answer(*_head_and_body(problem_of(error, "")))

    def connection_lost(self, exc: BaseException | None) -> None:
        """End. A delivery that is under way goes on."""
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Take a delivery; or hand the connection over."""
        if self._busy:
            # Its answer comes first.
            self._held += data
            self._stop_reading()
        elif not (data.startswith(BEGINNING) and self._take(data)):
            self._hand_over(data)

    def eof_received(self) -> bool:
        """A sender that sends no more may still listen: it gets the answer that it is owed."""
        self._close = True
        return self._busy

    def pause_writing(self) -> None:
        """Read no more requests from a sender that does not read its answers."""
        super().pause_writing()
        self._stop_reading()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._go_on()

    def _take(self, data: bytes) -> bool:
        """Take a delivery, if `data` is one and nothing else."""
        try:
            messages, _, _ = self._reader.feed_data(data)
        except HttpProcessingError:
            # aiohttp comes to the same conclusion, and says it.
            return False
        if len(messages) != 1:
            return False
        message = messages[0][0]
        begin = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if not self._is_simple(message, len(data) - begin):
            return False
        self._reader.message_consumed()
        if message.path != self._place.path:
            self._place = _place_of(message)
        _, provider, secret = self._place
        self._busy = True
        self._close = message.should_close
        self._body = data[begin:]
        self._arrival = Arrival(
            message.headers, self._address, secret, provider, message.raw_headers
        )
        try:
            self._gate.ingest.take(self._arrival, self._body, self._on_outcome)
        except Exception as error:  # noqa: BLE001 - every error becomes an answer
            self._on_outcome(error)
        return True

    def _is_simple(self, message: RawRequestMessage, size: int) -> bool:
        """Whether the body is what follows the head, of that size, and whether it can be taken as it is."""
        headers = message.headers
        return (
            headers.get("Content-Length") == str(size)
            and size <= self._gate.limits.body_bytes
            and message.version == HttpVersion11
            and not message.upgrade
            and "Expect" not in headers
            and "Content-Encoding" not in headers
        )

    def _on_outcome(self, outcome: Appended | Exception) -> bool:
        try:
            if isinstance(outcome, Appended):
                self._answer(TAKEN, acknowledgement(outcome))
            else:
                self._refuse(outcome)
        except Exception as error:
            # Who tells has others to tell.
            logger.error("could not answer", exc_info=error)
            self.abort()
        return True

    def _refuse(self, error: Exception) -> None:
        if self._arrival is None:
            return
        response = self._gate.ingest.refusal(self._arrival, error, self._body, len(self._body))
        self._close = self._close or response.keep_alive is False
        self._answer(*_head_and_body(response))

    def _answer(self, head: bytes, body: bytes) -> None:
        self._busy = False
        self._arrival = None
        self._body = b""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        close = self._close or self._gate.closing
        transport.write(self._gate.written(head, body, close=close))
        self._idle_since = self._loop.time()
        if close:
            transport.close()
        elif self._reading_paused:
            self._go_on()

    def _stop_reading(self) -> None:
        self._reading_paused = True
        if self.transport is not None:
            self.transport.pause_reading()

    def _go_on(self) -> None:
        transport = self.transport
        if self._busy or self.writing_paused or transport is None or transport.is_closing():
            return
        self._reading_paused = False
        transport.resume_reading()
        if self._held:
            held, self._held = self._held, b""
            self.data_received(held)

    def _hand_over(self, data: bytes) -> None:
        self._leave()
        if (transport := self.transport) is not None:
            self._gate.hand_over(transport, data)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._gate.left(self)

    def _look(self) -> None:
        """Close the connection, if it has been idle for so long."""
        if self.transport is not None and self.transport.is_closing():
            # It was closed an idle time ago, and its sender has not read what it was sent since.
            self.abort()
        now = self._loop.time()
        end = self._idle_since + self._gate.idle_seconds
        if now >= end:
            self.close_if_idle()
            end = now + self._gate.idle_seconds
        self._timer = self._loop.call_at(end, self._look)

    def close_if_idle(self) -> None:
        """Close the connection, unless an answer is owed."""
        if not self._busy and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.abort()


def _place_of(message: RawRequestMessage) -> _Place:
    provider, slash, secret = message.url.raw_path.removeprefix(WEBHOOKS).partition("/")
    return _Place(message.path, provider, secret if slash else None)


def _head_and_body(response: web.Response) -> tuple[bytes, bytes]:
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{lines}".encode()
    return head, response.body if isinstance(response.body, bytes) else b""
