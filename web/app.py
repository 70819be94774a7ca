"""The table of all routes, and the application that serves them."""

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from eventstore.fold.projection import Projection
from web.access import WITHOUT_KEY
from web.api import (
    deliveries,
    documentation,
    events,
    health,
    index,
    keys,
    live,
    metrics,
    projections,
    rejections,
    states,
)
from web.auth import ACCESS, OPEN_PATHS, OUTAGE_PATHS
from web.context import CONTEXT, Context
from web.cross_origin import CORS_ORIGINS
from web.ingest.delivery import WEBHOOKS
from web.ingest.receiver import Receiver
from web.problems import problems
from web.reads import ReadTurns
from web.responses import Handler, add_common_headers, options
from web.route import Route, request_handler


def make_routes(served: Iterable[Projection[Any]]) -> list[Route]:
    """Every route, with those of the states of each projection."""
    served = tuple(served)
    routes = [
        *deliveries.ROUTES,
        *(route for projection in served for route in states.routes_of(projection)),
        *(live.route_of(projection) for projection in served),
        *events.ROUTES,
        *live.ROUTES,
        *rejections.ROUTES,
        *projections.ROUTES,
        *keys.ROUTES,
        *health.ROUTES,
        *metrics.ROUTES,
    ]
    routes.append(index.route_to(routes))
    return [*routes, *documentation.routes_to(routes)]


def make_app(context: Context, receiver: Receiver) -> web.Application:
    """Make the application. `receiver` receives the deliveries, before the other middlewares and any handler."""
    routes = make_routes(each.projection for each in context.states.values())
    health = _paths_of(route for route in routes if route.scope == "health")
    turns = ReadTurns(context.limits, lambda: receiver.counts.newest, exempt=health)
    app = web.Application(
        middlewares=[receiver.middleware, problems, options, turns.middleware, authenticated]
    )
    app.on_response_prepare.append(add_common_headers)
    app[CONTEXT] = context
    app[CORS_ORIGINS] = frozenset(context.cors_origins)
    open_to_all = {"health", "metrics"} if context.open_metrics else {"health"}
    app[OPEN_PATHS] = _paths_of(route for route in routes if route.scope in open_to_all)
    app[OUTAGE_PATHS] = _paths_of(route for route in routes if route.scope == "metrics")
    handlers = [
        (
            route,
            request_handler(route, route.handler, context, is_open=route.scope in open_to_all),
        )
        for route in routes
        if route.handler is not None
    ]
    # A slash at the end makes no difference. Paths are looked through in this order, and most requests have none.
    for slash in ("", "/"):
        for route, handler in handlers:
            if slash and route.path.endswith(slash):
                continue
            # None of them reads a body.
            add = app.router.add_get if route.method == "GET" else app.router.add_post
            add(route.path + slash, handler, expect_handler=wait_with_continue)
    for route in routes:
        if route.handler is None:
            add_delivery_path(app.router, route.path)
    return app


def _paths_of(routes: Iterable[Route]) -> frozenset[str]:
    return frozenset(path for route in routes for path in (route.path, f"{route.path}/"))


@web.middleware
async def authenticated(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who makes a request: its handler sees whether they may. Nobody needs a key for a path that is none."""
    app = request.app
    resource = request.match_info.route.resource
    path = None if resource is None else resource.canonical
    # A provider is no user of the API: whatever it asks for by mistake, it is not told to get a key.
    is_open = (
        isinstance(request.match_info.http_exception, web.HTTPNotFound)
        or request.path.startswith(WEBHOOKS)
        or path in app[OPEN_PATHS]
    )
    if is_open:
        request[ACCESS] = WITHOUT_KEY
    else:
        request[ACCESS] = await app[CONTEXT].authenticator.authenticate(
            request, in_outages=path in app[OUTAGE_PATHS]
        )
    return await handler(request)


def add_delivery_path(router: web.UrlDispatcher, path: str) -> None:
    """Add a path of deliveries. The receiver answers every POST to it before a handler is called."""
    path = path.replace("{secret}", "{secret:.*}")
    router.add_route("*", path, only_post, expect_handler=wait_with_continue)


async def only_post(request: web.Request) -> web.Response:
    """Refuse what is not a POST."""
    raise web.HTTPMethodNotAllowed(method=request.method, allowed_methods=["POST"])


async def wait_with_continue(_: web.Request) -> None:
    """Send no `100 Continue` yet: the receiver does, once it has checked the head."""
