"""How Loopledger itself is: its projections, its health."""

from aiohttp import web

from web import parameters
from web.context import CONTEXT, Page, json_answer


async def list_projections(request: web.Request) -> web.Response:
    """`GET /v1/projections`: where each stands."""
    parameters.known_only(request, set())
    return json_answer(Page(await request.app[CONTEXT].registry.standings(), None))


async def healthz(_: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_answer({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 200 if deliveries can be taken and every projection goes on, else 503 with what is wrong."""
    context = request.app[CONTEXT]
    if not await context.database.answers():
        problems = {"postgres": "does not answer"}
    else:
        standings = await context.registry.standings()
        problems = {
            standing.name: standing.error or "does not go on: does anything project?"
            for standing in standings
            if standing.error or standing.stuck
        }
    if problems:
        return json_answer({"status": "not ready", "problems": problems}, 503)
    return json_answer({"status": "ready"})
