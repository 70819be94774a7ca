"""How Loopledger itself is."""

from aiohttp import web

from web.context import CONTEXT, json_response


async def healthz(_: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 200 if deliveries can be taken and every projection goes on, else 503 with what is wrong."""
    context = request.app[CONTEXT]
    if not await context.database.is_available():
        problems = {"postgres": "does not answer"}
    else:
        found = await context.registry.statuses()
        problems = {
            name: each.live.error or "does not go on: does anything project?"
            for name, each in found.items()
            if each.live.error or each.live.stuck
        }
    if problems:
        return json_response({"status": "not ready", "problems": problems}, 503)
    return json_response({"status": "ready"})
