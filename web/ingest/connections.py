"""What takes new connections: the fast path before aiohttp's server, or that server alone.

The fast path is written against aiohttp's internals. With a version of aiohttp that it was not tested with, the server
runs without it: an update of aiohttp never has to wait for one of ours.
"""

import asyncio
from typing import Protocol

import aiohttp
import structlog
from aiohttp import web

from eventstore.limits import Limits
from web.errors import TooManyConnectionsError
from web.ingest.receiver import Receiver
from web.problems import problem_response, translated

logger = structlog.get_logger()

# The suite, tests/web/ingest/test_protocol_fuzz.py above all, has passed with these.
FAST_PATH_VERSIONS = frozenset({"3.14.5"})


class ConnectionServer(Protocol):
    """Makes the protocol of every new connection."""

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""

    def connection_counts(self) -> dict[str, int]:
        """How many connections are open, by who serves them."""

    async def close(self, seconds: float) -> None:
        """Close every connection once its delivery has its response, at the latest after `seconds`."""


def connection_server(
    receiver: Receiver, server: web.Server, limits: Limits, *, idle_seconds: float
) -> ConnectionServer:
    """Make what takes new connections, with the fast path if this aiohttp is known to fit it."""
    server.request_handler = translated(server.request_handler)
    if aiohttp.__version__ in FAST_PATH_VERSIONS:
        # In other versions, what this imports may be missing.
        from web.ingest.protocol import DeliveryServer  # noqa: PLC0415

        return DeliveryServer(receiver, server, limits, idle_seconds=idle_seconds)
    logger.warning(
        "fast_path_off",
        message="Serving without the fast path for deliveries, which was not tested with this version of aiohttp.",
        aiohttp=aiohttp.__version__,
        tested=sorted(FAST_PATH_VERSIONS),
    )
    return PlainServer(server, limits)


class PlainServer:
    """aiohttp's server alone, by its public interface, with the limit on connections."""

    def __init__(self, server: web.Server, limits: Limits) -> None:
        self._server = server
        self._limit = limits.connections

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""
        if len(self._server.connections) >= self._limit:
            return _Refusal(self._limit)
        return self._server()

    def connection_counts(self) -> dict[str, int]:
        """How many connections are open, by who serves them."""
        return {"aiohttp": len(self._server.connections)}

    async def close(self, seconds: float) -> None:
        """Do nothing: aiohttp closes its connections itself."""


class _Refusal(asyncio.Protocol):
    """Refuses one connection."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Respond, and close."""
        response = problem_response(TooManyConnectionsError(limit=self._limit), "")
        head, body = head_and_body(response)
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(
                b"%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body)
            )
        transport.close()


def head_and_body(response: web.Response) -> tuple[bytes, bytes]:
    """The start of a response's head, and its body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{lines}".encode()
    return head, response.body if isinstance(response.body, bytes) else b""
