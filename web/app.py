"""The routes."""

from aiohttp import web

from web import admin, events
from web.context import CONTEXT, Context
from web.ingest import Ingest, unknown_provider
from web.problems import problems
from web.resources import Resource


def make_app(context: Context) -> web.Application:
    """Make the application. Bodies are read and capped by web.ingest itself."""
    app = web.Application(middlewares=[problems])
    app[CONTEXT] = context
    app.add_routes(
        [
            *(route for each in context.providers.values() for route in Ingest(each).routes()),
            web.post("/webhooks/{provider}", unknown_provider),
            web.get("/v1/events", events.list_events),
            web.get("/v1/events/{position}", events.show_event),
            web.get("/v1/events/{position}/body", events.show_body),
            web.get("/v1/projections", admin.list_projections),
            web.get("/healthz", admin.healthz),
            web.get("/readyz", admin.readyz),
        ]
    )
    for projection in context.projections.values():
        app.add_routes(Resource(projection).routes())
    return app
