"""The routes."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from web.api import events, health, projections, rejections
from web.api.states import Resource
from web.auth import local_only
from web.context import CONTEXT, Context
from web.problems import problems

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
            web.get("/healthz", health.healthz),
            web.get("/readyz", health.readyz),
        ]
    )
    for projection in context.projections.values():
        app.add_routes(Resource(projection).routes())
    return app


async def only_post(request: web.Request) -> web.Response:
    """Refuse what is no delivery; those are taken before the application is asked."""
    raise web.HTTPMethodNotAllowed(method=request.method, allowed_methods=["POST"])
