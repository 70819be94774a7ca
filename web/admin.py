"""How Loopledger itself is: its projections, its health."""

import msgspec
from aiohttp import web

from web import parameters
from web.context import CONTEXT, Context, Page, json_answer


async def list_projections(request: web.Request) -> web.Response:
    """`GET /v1/projections`: where each stands. `error` is what stops it in this process, or null."""
    context = request.app[CONTEXT]
    parameters.known_only(request, set())
    errors = _errors(context)
    items = [
        {**msgspec.structs.asdict(standing), "error": errors.get(standing.name)}
        for standing in await context.registry.standings()
    ]
    return json_answer(Page(items, None))


async def healthz(_: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_answer({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 200 if deliveries can be taken and every projection goes on, else 503 with what is wrong."""
    context = request.app[CONTEXT]
    problems = {name: error for name, error in _errors(context).items() if error}
    if not await context.database.answers():
        problems["postgres"] = "does not answer"
    if problems:
        return json_answer({"status": "not ready", "problems": problems}, 503)
    return json_answer({"status": "ready"})


def _errors(context: Context) -> dict[str, str | None]:
    return {name: projector.error for name, projector in context.projectors.items()}
