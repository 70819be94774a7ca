"""What takes new connections: the fast path before aiohttp's server, or that server alone.

The fast path is written against aiohttp's internals. With a version of aiohttp that it was not tested with, the server
runs without it: an update of aiohttp never has to wait for one of ours.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import aiohttp
import structlog
from aiohttp import web

from eventstore.errors import LoopledgerError
from eventstore.limits import Limits
from web.errors import HeadTooLargeError, TooManyConnectionsError, TooManyFromAddressError
from web.ingest.connection_limiter import Connection, ConnectionLimiter
from web.ingest.receiver import Receiver
from web.problems import translated

logger = structlog.get_logger()

# The suite, tests/web/ingest/test_protocol_fuzz.py above all, has passed with these.
FAST_PATH_VERSIONS = frozenset({"3.14.5"})

END_OF_HEAD = b"\r\n\r\n"

RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ConnectionServer(Protocol):
    """Makes the protocol of every new connection."""

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""

    limiter: ConnectionLimiter

    async def close(self, seconds: float) -> None:
        """Close every connection once its delivery has its response, at the latest after `seconds`."""


def connection_server(
    receiver: Receiver, server: web.Server, limits: Limits, *, idle_seconds: float
) -> ConnectionServer:
    """Make what takes new connections, with the fast path if this aiohttp is known to fit it."""
    server.request_handler = translated(server.request_handler)
    limiter = ConnectionLimiter(limits, receiver.rate_key, receiver.trusts_address)
    if aiohttp.__version__ in FAST_PATH_VERSIONS:
        # In other versions, what this imports may be missing.
        from web.ingest.protocol import DeliveryServer  # noqa: PLC0415

        return DeliveryServer(receiver, server, limiter, idle_seconds=idle_seconds)
    logger.warning(
        "fast_path_off",
        message="Serving without the fast path for deliveries, which was not tested with this version of aiohttp.",
        aiohttp=aiohttp.__version__,
        tested=sorted(FAST_PATH_VERSIONS),
    )
    return PlainServer(server, limiter)


class PlainServer:
    """aiohttp's server alone, by its public interface, within the limits on connections."""

    def __init__(self, server: web.Server, limiter: ConnectionLimiter) -> None:
        self._server = server
        self.limiter = limiter
        self._protocols: dict[asyncio.BaseTransport, PlainConnection] = {}
        server.request_handler = self._following(server.request_handler)

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""
        return PlainConnection(self.limiter, self._server, self._protocols)

    async def close(self, _: float) -> None:
        """Stop watching connections: aiohttp closes them itself."""
        self.limiter.close()

    def _following(self, handler: RequestHandler) -> RequestHandler:
        """Tell a connection when one of its requests is answered."""

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await handler(request)
            finally:
                transport = request.transport
                if transport is not None and (found := self._protocols.get(transport)):
                    found.on_answer(request)

        return handle


class PlainConnection(asyncio.Protocol):
    """One connection of aiohttp's, which sees only what comes and when a request is answered."""

    def __init__(
        self,
        limiter: ConnectionLimiter,
        server: web.Server,
        protocols: "dict[asyncio.BaseTransport, PlainConnection]",
    ) -> None:
        self._limiter = limiter
        self._inner: asyncio.Protocol = server()
        self._protocols = protocols
        self._transport: asyncio.Transport | None = None
        self._connection: Connection | None = None
        self._head = 0
        self._end = b""
        # A request is complete, or its body is on its way, and it has no answer yet.
        self._under_way = False
        self._writing_paused = False
        self.idle_since = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        tcp = cast("asyncio.Transport", transport)
        self._transport = tcp
        peer = transport.get_extra_info("peername")
        address = str(peer[0] if isinstance(peer, tuple) else peer or "")
        try:
            self._connection = self._limiter.enter(self, tcp, address)
        except (TooManyConnectionsError, TooManyFromAddressError) as error:
            tcp.write(self._limiter.serializer.problem(error))
            tcp.close()
            return
        self._protocols[transport] = self
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out."""
        if self._connection is not None and self._transport is not None:
            self._limiter.gone(self._connection)
            del self._protocols[self._transport]
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count a head, and give aiohttp what comes."""
        if self._connection is None or self._connection.left:
            return
        if not self._under_way:
            self._count_head(self._connection, data)
        if not self._connection.left:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Tell aiohttp."""
        return None if self._connection is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        """Watch whether the responses are read."""
        self._writing_paused = True
        if self._connection is not None:
            self._inner.pause_writing()
            self._limiter.stall(self._connection)

    def resume_writing(self) -> None:
        """All was read."""
        self._writing_paused = False
        if self._connection is not None:
            self._limiter.flow(self._connection)
            self._inner.resume_writing()

    def can_give_way(self, *, busy: bool) -> bool:  # noqa: ARG002 - it does not know what is under way
        """Whether no request is under way."""
        return not self._under_way or self._writing_paused

    def give_way(self, error: LoopledgerError) -> None:
        """Close the connection, with a response if there is a head to respond to."""
        if self._transport is None or self._connection is None:
            return
        if self._under_way or self._writing_paused:
            self._transport.abort()
        elif self._head:
            self._limiter.dismiss(self._connection, error)
        else:
            self._transport.close()

    def on_answer(self, request: web.BaseRequest) -> None:
        """Note that a request is answered."""
        self.idle_since = asyncio.get_running_loop().time()
        self._under_way = not request.content.is_eof()

    def _count_head(self, connection: Connection, data: bytes) -> None:
        found = (self._end + data).find(END_OF_HEAD)
        if found >= 0:
            self._head += found + len(END_OF_HEAD) - len(self._end)
            self._limiter.use(connection)
        else:
            self._head += len(data)
            self._limiter.hold(connection, data, in_head=True)
        limit = self._limiter.limits.head_bytes
        if self._head > limit:
            self._limiter.counts["head_too_large"] += 1
            self._limiter.dismiss(connection, HeadTooLargeError(limit=limit))
        elif found >= 0:
            self._under_way = True
            self._head, self._end = 0, b""
        else:
            self._end = (self._end + data)[-3:]
