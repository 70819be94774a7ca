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
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import formatdate
from typing import NamedTuple

import structlog
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, HttpVersion11
from aiohttp.http_parser import RawRequestMessage

from eventstore.limits import Limits
from eventstore.log.events import Appended
from verification.delivery import Delivery
from web.errors import HeadTooSlowError, TooManyConnectionsError
from web.ingest.connections import head_and_body
from web.ingest.delivery import split_path
from web.ingest.receiver import Receiver, acknowledgement
from web.problems import problem_response
from web.responses import SERVER

logger = structlog.get_logger()

START = b"POST /webhooks/"
END_OF_HEAD = b"\r\n\r\n"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

# More than one read brings: the parser never has to ask for a pause.
PARSER_BYTES = 1024 * 1024

# Seconds between two warnings that connections are refused.
WARNING_SECONDS = 60.0

RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class DeliveryServer:
    """Makes the protocol of every new connection, and keeps to the limits on connections.

    `server` gets the connections that are aiohttp's. A connection may be idle for `idle_seconds`.
    """

    def __init__(
        self, receiver: Receiver, server: web.Server, limits: Limits, *, idle_seconds: float
    ) -> None:
        self.receiver = receiver
        self.server = server
        self.limits = limits
        self.idle_seconds = idle_seconds
        self.closing = False
        server.request_handler = self._on_head(server.request_handler)
        self._protocols: set[DeliveryProtocol] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._warned = -WARNING_SECONDS
        # The connections that are aiohttp's and have not brought a complete head yet.
        self._awaiting_head: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._second = 0
        self._lines = b""

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        return DeliveryProtocol(self, asyncio.get_running_loop())

    def opened(self, protocol: "DeliveryProtocol") -> None:
        """Count a new connection."""
        self._protocols.add(protocol)
        self._empty.clear()

    def is_full(self) -> bool:
        """Whether there are more connections than allowed, a new one included."""
        limit = self.limits.connections
        if len(self._protocols) + len(self.server.connections) <= limit:
            return False
        now = time.monotonic()
        if now - self._warned >= WARNING_SECONDS:
            self._warned = now
            logger.warning(
                "connection_refused",
                message="A connection was refused, because as many are open as limits.connections allows.",
                connections=limit,
            )
        return True

    def closed(self, protocol: "DeliveryProtocol") -> None:
        """Count a connection that is closed, or aiohttp's now."""
        self._protocols.discard(protocol)
        if not self._protocols:
            self._empty.set()

    def pass_to_aiohttp(self, transport: asyncio.Transport, data: bytes) -> None:
        """Give a connection to aiohttp.

        aiohttp waits for a head as long as a connection may be idle, and closes it without a response: here it gets
        `head_seconds`, and a response.
        """
        handler = self.server()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        self._awaiting_head[transport] = asyncio.get_running_loop().call_later(
            self.limits.head_seconds, self._head_too_slow, transport
        )
        handler.data_received(data)

    def _on_head(self, handler: RequestHandler) -> RequestHandler:
        """Note, before aiohttp's handler is called, that a head is complete."""

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            transport = request.transport
            if transport is not None and transport in self._awaiting_head:
                self._awaiting_head.pop(transport).cancel()
            return await handler(request)

        return handle

    def _head_too_slow(self, transport: asyncio.Transport) -> None:
        del self._awaiting_head[transport]
        if not transport.is_closing():
            error = HeadTooSlowError(seconds=self.limits.head_seconds)
            transport.write(
                self.serialized(*head_and_body(problem_response(error, "")), close=True)
            )
            transport.close()

    def connection_counts(self) -> dict[str, int]:
        """How many connections are open, by who serves them."""
        return {"fast_path": len(self._protocols), "aiohttp": len(self.server.connections)}

    async def close(self, seconds: float) -> None:
        """Close every connection once its delivery has its response, at the latest after `seconds`."""
        self.closing = True
        for timer in self._awaiting_head.values():
            timer.cancel()
        for protocol in tuple(self._protocols):
            protocol.close_if_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        for protocol in tuple(self._protocols):
            protocol.abort()

    def serialized(self, head: bytes, body: bytes, *, close: bool) -> bytes:
        """A response as bytes. `head` lacks the lines that all responses have."""
        return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (
            head,
            self._common_lines(),
            len(body),
            b"Connection: close\r\n" if close else b"",
            body,
        )

    def _common_lines(self) -> bytes:
        """The lines that all responses have (RFC 9110, 6.6.1 and 10.2.4); they change once a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            date = formatdate(second, usegmt=True)
            self._lines = f"Date: {date}\r\nServer: {SERVER}\r\n".encode()
        return self._lines


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
        "_delivery",
        "_held",
        "_idle_since",
        "_reader",
        "_reading_paused",
        "_server",
        "_target",
        "_timer",
    )

    def __init__(self, server: DeliveryServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._server = server
        # It stops at the second request of a segment: to parse all of them at once would block the loop.
        self._reader = HttpRequestParser(
            self, loop, PARSER_BYTES, auto_decompress=False, max_msg_queue_size=2
        )
        self._address = ""
        self._target = _Target("", "", None)
        self._delivery: Delivery | None = None
        # While a delivery is being appended, nothing is read, and what came after it is held.
        self._busy = False
        self._held = b""
        self._reading_paused = False
        self._close = False
        self._idle_since = loop.time()
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
        if self._server.is_full():
            self._close = True
            error = TooManyConnectionsError(limit=self._server.limits.connections)
            self._respond(*head_and_body(problem_response(error, "")))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection. A delivery that is being appended goes on."""
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Receive a delivery; or pass the connection to aiohttp."""
        if self._busy:
            # The response to the delivery before comes first.
            self._held += data
            self._stop_reading()
        elif not (data.startswith(START) and self._receive(data)):
            self._pass_to_aiohttp(data)

    def eof_received(self) -> bool:
        """A sender that sends no more may still read: keep the connection until it has its response."""
        self._close = True
        return self._busy

    def pause_writing(self) -> None:
        """Stop reading requests from a sender that does not read the responses."""
        super().pause_writing()
        self._stop_reading()

    def resume_writing(self) -> None:
        """Read again."""
        super().resume_writing()
        self._resume_reading()

    def _receive(self, data: bytes) -> bool:
        """Receive a delivery, if `data` is one and nothing else; says whether it was."""
        try:
            messages, _, _ = self._reader.feed_data(data)
        except HttpProcessingError:
            # aiohttp fails likewise, and responds.
            return False
        if len(messages) != 1:
            return False
        message = messages[0][0]
        body_start = data.find(END_OF_HEAD) + len(END_OF_HEAD)
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
            self._server.receiver.submit(self._delivery, self._on_outcome)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            self._on_outcome(error)
        return True

    def _is_simple(self, message: RawRequestMessage, size: int) -> bool:
        """Whether the `size` bytes after the head are the whole body, to be kept as they are."""
        headers = message.headers
        return (
            headers.get("Content-Length") == str(size)
            and size <= self._server.limits.body_bytes
            and message.version == HttpVersion11
            and not message.upgrade
            and "Expect" not in headers
            and "Content-Encoding" not in headers
        )

    def _on_outcome(self, outcome: Appended | Exception) -> bool:
        try:
            if isinstance(outcome, Appended):
                if self._delivery is not None:
                    self._server.receiver.counts.count_accepted(self._delivery)
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
        transport.write(self._server.serialized(head, body, close=close))
        self._idle_since = self._loop.time()
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
            self.data_received(held)

    def _pass_to_aiohttp(self, data: bytes) -> None:
        self._forget()
        if (transport := self.transport) is not None:
            self._server.pass_to_aiohttp(transport, data)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.closed(self)

    def _check_idle(self) -> None:
        """Close the connection, if it has been idle for `idle_seconds`."""
        if self.transport is not None and self.transport.is_closing():
            # It was closed that long ago, and its sender still has not read the responses.
            self.abort()
        now = self._loop.time()
        end = self._idle_since + self._server.idle_seconds
        if now >= end:
            self.close_if_idle()
            end = now + self._server.idle_seconds
        self._timer = self._loop.call_at(end, self._check_idle)

    def close_if_idle(self) -> None:
        """Close the connection, unless its delivery still waits for the response."""
        if not self._busy and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()
