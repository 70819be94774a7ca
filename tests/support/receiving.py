"""A server that takes every POST, for those who send, and what was sent of each thing."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import test_utils, web

from simulation.deliveries import Delivery

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """Serve every POST with the handler, on a free port of the loopback address."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    app.router.add_get("/healthz", healthz)
    async with test_utils.TestServer(app) as running:
        yield str(running.make_url("/"))


async def healthz(_: web.Request) -> web.Response:
    """What a Loopledger says of itself."""
    return web.json_response({"status": "ok", "server": "loopledger"})


def accept_into(received: list[tuple[str, bytes]]) -> Handler:
    async def accept(request: web.Request) -> web.Response:
        received.append((request.path, await request.read()))
        return web.json_response({"position": len(received)})

    return accept


def by_thing(sent: list[Delivery]) -> dict[str, list[Delivery]]:
    """The deliveries of each thing, in order."""
    things: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in sent:
        things[delivery.thing].append(delivery)
    return things
