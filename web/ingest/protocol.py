"""The fast path: receives deliveries that come in one piece straight off their connections; aiohttp gets the rest.

A small request comes as one segment, head and body at once. Until its COMMIT there is nothing to wait for, so no task
runs and neither request nor response is made for it: that would cost more than all else that is done for a delivery.
aiohttp's parser reads it all the same. At the first bytes that are anything else (a GET, a body still on its way,
several requests at once, what is no HTTP), the connection becomes aiohttp's, for good.

This is written against aiohttp's internals, so it is used with the versions in `connections.FAST_PATH_VERSIONS` only.
"""

import asyncio
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from eventstore.errors import LoopledgerError
from eventstore.log.events import Appended
from verification.delivery import Delivery
from verification.keyring import UnverifiedError
from web.errors import TooManyConnectionsError, TooManyFromAddressError
from web.ingest.connection_limiter import Connection, ConnectionLimiter
from web.ingest.connections import END_OF_HEAD
from web.ingest.delivery import split_path
from web.ingest.handed import HandedConnection
from web.ingest.receiver import Receiver, acknowledgement
from web.ingest.responses import head_and_body

logger = structlog.get_logger()

START = b"POST /webhooks/"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

# More than one read brings: the parser never has to ask for a pause.
PARSER_BYTES = 1024 * 1024


class DeliveryServer:
    """Makes the protocol of every new connection.

    `server` gets the connections that are aiohttp's. A connection may be idle for `idle_seconds`.
    """

    def __init__(
        self,
        receiver: Receiver,
        server: web.Server,
        limiter: ConnectionLimiter,
        *,
        idle_seconds: float,
    ) -> None:
        self.receiver = receiver
        self.counts = receiver.counts
        self.limits = limiter.limits
        self.head_bytes = limiter.limits.head_bytes
        self.idle_seconds = idle_seconds
        self.limiter = limiter
        self.serializer = limiter.serializer
        self.closing = False
        self._server = server
        self._protocols: set[DeliveryProtocol] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        return DeliveryProtocol(self, asyncio.get_running_loop())

    def opened(self, protocol: "DeliveryProtocol") -> None:
        """Note a new connection."""
        self._protocols.add(protocol)
        self._empty.clear()

    def closed(self, protocol: "DeliveryProtocol") -> None:
        """Note a connection that is closed, or aiohttp's now."""
        self._protocols.discard(protocol)
        if not self._protocols:
            self._empty.set()

    def pass_to_aiohttp(self, connection: Connection, data: bytes) -> None:
        """Give a connection to aiohttp."""
        handler = HandedConnection(self.limiter, connection, self._server)
        connection.owner = handler
        connection.transport.set_protocol(handler)
        handler.connection_made(connection.transport)
        handler.data_received(data)

    async def close(self, seconds: float) -> None:
        """Close every connection once its delivery has its response, at the latest after `seconds`."""
        self.closing = True
        self.limiter.close()
        for protocol in tuple(self._protocols):
            protocol.close_if_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        for protocol in tuple(self._protocols):
            protocol.abort()


class _Target(NamedTuple):
    """Where a path leads: a provider, and the secret after it."""

    path: str
    provider: str
    secret: str | None


class DeliveryProtocol(BaseProtocol):
    """One connection, as long as it brings deliveries in one piece."""

    __slots__ = (
        "_address",
        "_busy",
        "_close",
        "_connection",
        "_delivery",
        "_held",
        "_reader",
        "_reading_paused",
        "_server",
        "_target",
        "_timer",
        "idle_since",
    )

    def __init__(self, server: DeliveryServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._server = server
        # It stops at the second request of a segment: to parse all of them at once would block the loop.
        self._reader = HttpRequestParser(
            self, loop, PARSER_BYTES, auto_decompress=False, max_msg_queue_size=2
        )
        self._address = ""
        self._connection: Connection | None = None
        self._target = _Target("", "", None)
        self._delivery: Delivery | None = None
        # While a delivery is being appended, nothing is read, and what came after it is held.
        self._busy = False
        self._held = b""
        self._reading_paused = False
        self._close = False
        self.idle_since = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0] if isinstance(peer, tuple) else peer or "")
        self._timer = self._loop.call_later(self._server.idle_seconds, self._check_idle)
        self._server.opened(self)
        limiter, tcp = self._server.limiter, cast("asyncio.Transport", transport)
        try:
            self._connection = limiter.enter(self, tcp, self._address)
        except (TooManyConnectionsError, TooManyFromAddressError) as error:
            tcp.write(limiter.serializer.problem(error))
            tcp.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection. A delivery that is being appended goes on."""
        super().connection_lost(exc)
        if self._connection is not None:
            self._server.limiter.gone(self._connection)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Receive a delivery; or pass the connection to aiohttp."""
        connection = self._connection
        if connection is None or connection.left:
            # It was told to go.
            return
        if self._busy:
            # The response to the delivery before comes first.
            self._held += data
            self._stop_reading()
            self._server.limiter.hold(connection, data, in_head=False)
        elif not (data.startswith(START) and self._receive(data)):
            self._forget()
            self._server.pass_to_aiohttp(connection, data)

    def eof_received(self) -> bool:
        """A sender that sends no more may still read: keep the connection until it has its response."""
        self._close = True
        return self._busy

    def pause_writing(self) -> None:
        """Stop reading requests from a sender that does not read the responses."""
        super().pause_writing()
        self._stop_reading()
        if self._connection is not None:
            self._server.limiter.stall(self._connection)

    def resume_writing(self) -> None:
        """Read again."""
        super().resume_writing()
        if self._connection is not None:
            self._server.limiter.flow(self._connection)
        self._resume_reading()

    def _receive(self, data: bytes) -> bool:
        """Receive a delivery, if `data` is one and nothing else; says whether it was."""
        body_start = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        if not len(END_OF_HEAD) <= body_start <= self._server.head_bytes:
            return False
        try:
            messages, _, _ = self._reader.feed_data(data)
        except HttpProcessingError:
            # aiohttp fails likewise, and responds.
            return False
        if len(messages) != 1:
            return False
        message = messages[0][0]
        if not self._is_simple(message, len(data) - body_start):
            return False
        if message.path != self._target.path:
            found = split_path(message.url.raw_path)
            if found is None:
                return False
            self._target = _Target(message.path, *found)
        self._reader.message_consumed()
        _, provider, secret = self._target
        self._busy = True
        self._close = message.should_close
        self._delivery = Delivery(
            provider,
            secret,
            self._address,
            message.headers,
            message.raw_headers,
            datetime.now(UTC),
            data[body_start:],
            time.perf_counter(),
        )
        try:
            verified = self._server.receiver.submit(self._delivery, self._on_outcome)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            self._on_outcome(error)
        else:
            connection = self._connection
            if verified and connection is not None and not connection.known:
                self._server.limiter.know(connection)
        return True

    def _is_simple(self, message: RawRequestMessage, size: int) -> bool:
        """Whether the `size` bytes after the head are the whole body, to be kept as they are."""
        headers = message.headers
        return (
            headers.get(hdrs.CONTENT_LENGTH) == str(size)
            and size <= self._server.limits.body_bytes
            and message.version == HttpVersion11
            and not message.upgrade
            and hdrs.EXPECT not in headers
            and hdrs.CONTENT_ENCODING not in headers
        )

    def _on_outcome(self, outcome: Appended | Exception) -> bool:
        try:
            if isinstance(outcome, Appended):
                if self._delivery is not None:
                    self._server.counts.count_accepted(self._delivery)
                self._respond(OK_HEAD, acknowledgement(outcome))
            else:
                self._refuse(outcome)
        except Exception as error:
            # The appender has others to call after this one.
            logger.error("response_failed", message="A response could not be sent.", exc_info=error)
            self.abort()
        return True

    def _refuse(self, error: Exception) -> None:
        if self._delivery is None:
            return
        if isinstance(error, UnverifiedError) and self._connection is not None:
            self._server.limiter.refuse(self._connection)
        response = self._server.receiver.refuse(self._delivery, error)
        self._close = self._close or response.keep_alive is False
        self._respond(*head_and_body(response))

    def _respond(self, head: bytes, body: bytes) -> None:
        self._busy = False
        self._delivery = None
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        close = self._close or self._server.closing
        transport.write(self._server.serializer.write(head, body, close=close))
        self.idle_since = self._loop.time()
        if close:
            transport.close()
        elif self._reading_paused:
            self._resume_reading()

    def _stop_reading(self) -> None:
        self._reading_paused = True
        if self.transport is not None:
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        transport = self.transport
        if self._busy or self.writing_paused or transport is None or transport.is_closing():
            return
        self._reading_paused = False
        transport.resume_reading()
        if self._held:
            held, self._held = self._held, b""
            if self._connection is not None:
                self._server.limiter.use(self._connection)
            self.data_received(held)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # It refers to this: a cycle, with all that it has read, until the garbage collector looks.
        del self._reader
        self._server.closed(self)

    def _check_idle(self) -> None:
        """Close the connection, if it has been idle for `idle_seconds`."""
        now = self._loop.time()
        end = self.idle_since + self._server.idle_seconds
        if now >= end:
            self.close_if_idle()
            end = now + self._server.idle_seconds
        self._timer = self._loop.call_at(end, self._check_idle)

    def close_if_idle(self) -> None:
        """Close the connection, unless its delivery still waits for the response."""
        if not self._busy and self.transport is not None:
            self.transport.close()

    def can_give_way(self, *, busy: bool) -> bool:  # noqa: ARG002 - what is under way here is a delivery
        """Whether no delivery waits for its response; or nobody reads that."""
        return not self._busy or self.writing_paused

    def give_way(self, _: LoopledgerError) -> None:
        """Close the connection. There is no request to respond to."""
        if self.writing_paused:
            self.abort()
        elif self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()
