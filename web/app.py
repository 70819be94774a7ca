"""The routes."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from eventstore.settings import is_loopback
from web import admin, events, projections, rejections
from web.context import CONTEXT, Context
from web.problems import NotLocalError, problems
from web.resources import Resource

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# What a load balancer asks.
OPEN = frozenset({"/healthz", "/readyz"})


# What proxies add.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


def make_app(context: Context) -> web.Application:
    """Make the application: all but the taking of deliveries, which web.ingest does before it."""
    app = web.Application(middlewares=[problems, local_only])
    app[CONTEXT] = context
    app.add_routes(
        [
            web.get("/v1/rejections", rejections.list_rejections),
            web.get("/v1/rejections/{id}", rejections.show_rejection),
            web.get("/v1/rejections/{id}/body", rejections.show_body),
            web.post("/v1/rejections/{id}/retry", rejections.retry_rejection),
            web.route("*", "/webhooks/{provider}", only_post),
            web.route("*", "/webhooks/{provider}/{secret}", only_post),
            web.get("/v1/events", events.list_events),
            web.get("/v1/events/{position}", events.show_event),
            web.get("/v1/events/{position}/body", events.show_body),
            *projections.routes(),
            web.get("/healthz", admin.healthz),
            web.get("/readyz", admin.readyz),
        ]
    )
    for projection in context.projections.values():
        app.add_routes(Resource(projection).routes())
    return app


@web.middleware
async def local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer questions of this machine only, unless told otherwise: states and events are nobody else's business."""
    if request.app[CONTEXT].api_for_all or request.path in OPEN or is_from_here(request):
        return await handler(request)
    raise NotLocalError(path=request.path)


def is_from_here(request: web.Request) -> bool:
    """Say whether a request was made on this machine, by nobody's proxy and by no page of somebody else's.

    A proxy shows by its headers, a page by its Origin, one that rebinds its name by the Host. A proxy that adds none of
    these cannot be told: docs/operations.md says to forward /webhooks/ only.
    """
    headers = request.headers
    return (
        is_loopback(request.remote)
        and is_loopback(request.url.host)
        and not any(name in headers for name in FORWARDED)
        and headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}
        and headers.get("Origin") is None
    )


async def only_post(request: web.Request) -> web.Response:
    """Refuse what is no delivery; those are taken before the application is asked."""
    raise web.HTTPMethodNotAllowed(method=request.method, allowed_methods=["POST"])
