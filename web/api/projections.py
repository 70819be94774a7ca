"""The projections over HTTP: where they stand, what is in quarantine, and rebuilds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from eventstore.errors import NotSwitchedError
from eventstore.fold.quarantine import Quarantine
from eventstore.fold.status import ProjectionStatus
from web import parameters
from web.context import CONTEXT, Context, Page, json_response
from web.problems import NotFoundError

# How long an answer waits for the process that does what was asked for, and how often it looks.
DONE_SECONDS = 10.0
LOOK_SECONDS = 0.1


async def list_projections(request: web.Request) -> web.Response:
    """`GET /v1/projections`: where each stands."""
    parameters.known_only(request, set())
    found = await request.app[CONTEXT].registry.statuses()
    return json_response(Page([_about(each) for each in found.values()], None))


async def show_projection(request: web.Request) -> web.Response:
    """`GET /v1/projections/{name}`: one of them, with its generations."""
    parameters.known_only(request, set())
    return json_response(_whole(await _generations(request)))


async def start_rebuild(request: web.Request) -> web.Response:
    """`POST /v1/projections/{name}/rebuild`: begin one."""
    parameters.known_only(request, {"promote"})
    promote = "promote" in request.query and parameters.flag(request, "promote")
    await request.app[CONTEXT].registry.request_rebuild(_name(request), promote=promote)
    return json_response((await _generations(request)).rebuild, 202)


async def show_rebuild(request: web.Request) -> web.Response:
    """`GET /v1/projections/{name}/rebuild`: how far it is, and what it would change."""
    parameters.known_only(request, set())
    rebuild = (await _generations(request)).rebuild
    if rebuild is None:
        raise NotFoundError(what=f"rebuild of {_name(request)} under way")
    return json_response(rebuild)


async def promote(request: web.Request) -> web.Response:
    """`POST /v1/projections/{name}/promote`: answer from the new generation."""
    return await _switch(request, request.app[CONTEXT].registry.request_promotion)


async def discard(request: web.Request) -> web.Response:
    """`POST /v1/projections/{name}/discard`: stop the rebuild under way and forget it."""
    if not await request.app[CONTEXT].registry.request_discard(_name(request)):
        raise NotFoundError(what=f"rebuild of {_name(request)} under way")
    return await _when(request, lambda now: now.rebuild is None)


async def roll_back(request: web.Request) -> web.Response:
    """`POST /v1/projections/{name}/rollback`: answer from the generation that was live before."""
    return await _switch(request, request.app[CONTEXT].registry.request_rollback)


async def list_quarantine(request: web.Request) -> web.Response:
    """`GET /v1/projections/{name}/quarantine`: what the live generation could not fold."""
    parameters.known_only(request, {"limit", "cursor"})
    limit = parameters.page_length(request)
    after = parameters.whole_number(request, "cursor", 0)
    quarantine = Quarantine(request.app[CONTEXT].database)
    items = await quarantine.page(_name(request), after, limit + 1)
    more = len(items) > limit
    return json_response(Page(items[:limit], items[limit - 1].position if more else None))


async def show_quarantined(request: web.Request) -> web.Response:
    """`GET /v1/projections/{name}/quarantine/{position}`: one of these."""
    parameters.known_only(request, set())
    position = parameters.as_whole_number(request.match_info["position"], "position", least=1)
    found = await Quarantine(request.app[CONTEXT].database).find(_name(request), position)
    if found is None:
        raise NotFoundError(what=f"event {position} in the quarantine of {_name(request)}")
    return json_response(found)


def routes() -> list[web.RouteDef]:
    """The routes of the projections."""
    one = "/v1/projections/{name}"
    return [
        web.get("/v1/projections", list_projections),
        web.get(one, show_projection),
        web.post(f"{one}/rebuild", start_rebuild),
        web.get(f"{one}/rebuild", show_rebuild),
        web.post(f"{one}/promote", promote),
        web.post(f"{one}/discard", discard),
        web.post(f"{one}/rollback", roll_back),
        web.get(f"{one}/quarantine", list_quarantine),
        web.get(f"{one}/quarantine/{{position}}", show_quarantined),
    ]


async def _switch(request: web.Request, ask: Callable[[str], Awaitable[None]]) -> web.Response:
    """Ask for another generation to be live, and answer when it is."""
    before = (await _generations(request)).live.generation
    await ask(_name(request))
    return await _when(request, lambda now: _is_switched(before, now))


def _is_switched(before: int, now: ProjectionStatus) -> bool:
    """Say whether another generation is live than `before`. Raises NotSwitchedError if it will not be."""
    if now.live.generation != before:
        return True
    if now.rebuild is not None and now.rebuild.status != "failed":
        return False
    others = [one for one in now.generations if one.generation != before]
    last = max(others, key=lambda one: one.updated_at, default=now.live)
    raise NotSwitchedError(
        projection=last.name, generation=last.generation, problem=last.error or "it was discarded."
    )


async def _when(request: web.Request, done: Callable[[ProjectionStatus], bool]) -> web.Response:
    """Answer 200 once it is done; 202 if that takes too long: it is done all the same."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DONE_SECONDS
    while not done(now := await _generations(request)):
        if loop.time() > deadline:
            return json_response(_whole(now), 202)
        await asyncio.sleep(LOOK_SECONDS)
    return json_response(_whole(now))


def _name(request: web.Request) -> str:
    context: Context = request.app[CONTEXT]
    name = request.match_info["name"]
    if name not in context.projections:
        known = ", ".join(sorted(context.projections))
        raise NotFoundError(what=f"projection {name!r}; known are {known}")
    return name


async def _generations(request: web.Request) -> ProjectionStatus:
    name = _name(request)
    return (await request.app[CONTEXT].registry.statuses(name))[name]


def _about(generations: ProjectionStatus) -> dict[str, Any]:
    """The live generation, and what to do if other code folded it."""
    live = generations.live
    advice = None
    if live.stale:
        advice = f"other code or settings folded it than now; run: loopledger rebuild {live.name}"
        if generations.rebuild is not None:
            advice = (
                f"a rebuild is {generations.rebuild.status}; run: loopledger rebuild {live.name}"
            )
    return {**msgspec.structs.asdict(live), "advice": advice}


def _whole(generations: ProjectionStatus) -> dict[str, Any]:
    return {**_about(generations), "generations": generations.generations}
