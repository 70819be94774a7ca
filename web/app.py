"""The routes."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from web.api import events, health, projections, rejections
from web.api.states import Resource
from web.auth import local_only
from web.context import CONTEXT, Context
from web.ingest.receiver import Receiver
from web.problems import problems

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(context: Context, receiver: Receiver) -> web.Application:
    """Make the application. `receiver` receives the deliveries, before the other middlewares and any handler."""
    app = web.Application(middlewares=[receiver.middleware, problems, local_only])
    app[CONTEXT] = context
    app.add_routes(
        [
            web.get("/v1/rejections", rejections.list_rejections),
            web.get("/v1/rejections/{id}", rejections.show_rejection),
            web.get("/v1/rejections/{id}/body", rejections.show_body),
            web.post("/v1/rejections/{id}/retry", rejections.retry_rejection),
            *webhook_routes(),
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


def webhook_routes() -> list[web.RouteDef]:
    """The paths of deliveries: what gets as far as a handler there is none."""
    paths = ("/webhooks/{provider}", "/webhooks/{provider}/{secret:.*}")
    return [web.route("*", path, only_post, expect_handler=wait_with_continue) for path in paths]


async def only_post(request: web.Request) -> web.Response:
    """Refuse what is not a POST."""
    raise web.HTTPMethodNotAllowed(method=request.method, allowed_methods=["POST"])


async def wait_with_continue(_: web.Request) -> None:
    """Send no `100 Continue` yet: the receiver does, once it has checked the head."""
