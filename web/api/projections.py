"""The projections over HTTP: how far they are, what is in quarantine, and rebuilds."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from eventstore.errors import (
    CursorError,
    NotFoundError,
    NothingRetiredError,
    NotReadyError,
    NotSetUpError,
    NotSwitchedError,
    RebuildingError,
)
from eventstore.fold.quarantine import QuarantinedEvent
from eventstore.fold.status import GenerationStatus, ProjectionStatus, Rebuild
from eventstore.log.streams import stream_part
from eventstore.query.cursor import Page
from eventstore.query.records import GENERATIONS, QUARANTINE
from eventstore.query.whole_lists import WholeList
from web.access import Access
from web.api.lists import ListQuery, list_query_of, question_of
from web.context import Context
from web.formats import EncodedPage
from web.parameters import NoParameters, Position
from web.route import COMMON_ERRORS, Answer, Route
from web.whole import LIST_ERRORS, LIST_MEDIA

# How long a response waits for what was asked for to be done, and how often it looks, in seconds.
DONE_SECONDS = 10.0
LOOK_SECONDS = 0.1


class ProjectionPath(msgspec.Struct, frozen=True):
    """Which projection."""

    name: Annotated[str, Meta(description="The name of a projection.", examples=["gift_cards"])]


class QuarantinedPath(ProjectionPath, frozen=True):
    """Which projection, and which event."""

    position: Position


class RebuildQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do once it is ready."""

    promote: Annotated[bool, Meta(description="Promote it as soon as it is ready.")] = False


class ProjectionSummary(GenerationStatus, frozen=True, kw_only=True):
    """How far a projection is: the status of its live generation.

    `advice` is what to do if other code folded it than this server would; else null.
    """

    advice: str | None


class ProjectionDetails(ProjectionSummary, frozen=True, kw_only=True):
    """The same of one projection, and the status of each of its `generations`."""

    generations: list[GenerationStatus]


async def list_projections(
    context: Context, _access: Access, _path: NoParameters, _query: NoParameters
) -> Page[ProjectionSummary, None]:
    """How far each projection is."""
    found = await context.registry.statuses()
    items = [ProjectionSummary(**_live(each)) for each in found.values()]
    return Page(items, None)


async def show_projection(
    context: Context, _access: Access, path: ProjectionPath, _: NoParameters
) -> ProjectionDetails:
    """One projection with its generations."""
    return _details(await _status(context, path.name))


async def start_rebuild(
    context: Context, _access: Access, path: ProjectionPath, query: RebuildQuery
) -> Rebuild:
    """Begin a rebuild."""
    name = _known(context, path.name)
    await context.registry.request_rebuild(name, promote=query.promote)
    return _under_way(await _status(context, name))


async def show_rebuild(
    context: Context, _access: Access, path: ProjectionPath, _: NoParameters
) -> Rebuild:
    """How far the rebuild under way is, and what it would change."""
    return _under_way(await _status(context, path.name))


async def promote(
    context: Context, _access: Access, path: ProjectionPath, _: NoParameters
) -> ProjectionDetails | Answer:
    """Make the generation that is ready live, and the live one retired."""
    return await _switch(context, path.name, context.registry.request_promotion)


async def discard(
    context: Context, _access: Access, path: ProjectionPath, _: NoParameters
) -> ProjectionDetails | Answer:
    """Stop the rebuild under way and forget it."""
    name = _known(context, path.name)
    if not await context.registry.request_discard(name):
        raise _no_rebuild(name)
    return await _when(context, name, lambda now: now.rebuild is None)


async def roll_back(
    context: Context, _access: Access, path: ProjectionPath, _: NoParameters
) -> ProjectionDetails | Answer:
    """Make the generation that was live before live again."""
    return await _switch(context, path.name, context.registry.request_rollback)


async def list_quarantine(
    context: Context, access: Access, path: ProjectionPath, query: ListQuery
) -> EncodedPage:
    """The events that the live generation could not fold."""
    page = await context.lists.page(
        QUARANTINE,
        question_of(QUARANTINE, query),
        access.visibility,
        limit=query.limit,
        cursor=query.cursor,
        given=[_known(context, path.name)],
    )
    return EncodedPage(page.body, page.next)


async def whole_quarantine(
    context: Context, access: Access, path: ProjectionPath, query: ListQuery
) -> WholeList:
    """All of them."""
    given = (_known(context, path.name),)
    return WholeList(QUARANTINE, question_of(QUARANTINE, query), access.visibility, given)


async def whole_generations(
    context: Context, access: Access, _: NoParameters, query: ListQuery
) -> WholeList:
    """All of them."""
    given = (context.registry.fingerprints,)
    return WholeList(GENERATIONS, question_of(GENERATIONS, query), access.visibility, given)


async def list_generations(
    context: Context, access: Access, _: NoParameters, query: ListQuery
) -> EncodedPage:
    """How far each generation of each projection is."""
    page = await context.lists.page(
        GENERATIONS,
        question_of(GENERATIONS, query),
        access.visibility,
        limit=query.limit,
        cursor=query.cursor,
        given=[context.registry.fingerprints],
    )
    return EncodedPage(page.body, page.next)


async def show_quarantined(
    context: Context, access: Access, path: QuarantinedPath, _: NoParameters
) -> QuarantinedEvent:
    """One event that the live generation could not fold."""
    name = _known(context, path.name)
    found = await context.quarantine.find(name, path.position)
    merchants = access.visibility.merchants
    if found is None or (
        merchants is not None and found.stream.split("/")[1] not in map(stream_part, merchants)
    ):
        raise NotFoundError(what=f"event {path.position} in the quarantine of {name}")
    return found


async def _switch(
    context: Context, name: str, request: Callable[[str], Awaitable[None]]
) -> ProjectionDetails | Answer:
    """Request that another generation be live, and answer when it is."""
    before = (await _status(context, name)).live.generation
    await request(name)
    return await _when(context, name, lambda now: _is_switched(before, now))


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


async def _when(
    context: Context, name: str, done: Callable[[ProjectionStatus], bool]
) -> ProjectionDetails | Answer:
    """Answer once it is done, with 202 if that takes too long: it will be done all the same."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DONE_SECONDS
    while not done(now := await _status(context, name)):
        if loop.time() > deadline:
            return Answer(_details(now), HTTPStatus.ACCEPTED)
        await asyncio.sleep(LOOK_SECONDS)
    return _details(now)


def _known(context: Context, name: str) -> str:
    """The name of a projection, if it is one. Raises NotFoundError."""
    if name not in context.states:
        known = ", ".join(sorted(context.states))
        raise NotFoundError(what=f"projection {name!r}; known are {known}")
    return name


async def _status(context: Context, name: str) -> ProjectionStatus:
    """How far a projection is. Raises NotFoundError, NotSetUpError."""
    found = await context.registry.statuses(_known(context, name))
    if name not in found:
        raise NotSetUpError(projection=name)
    return found[name]


def _under_way(status: ProjectionStatus) -> Rebuild:
    if status.rebuild is None:
        raise _no_rebuild(status.live.name)
    return status.rebuild


def _no_rebuild(name: str) -> NotFoundError:
    return NotFoundError(what=f"rebuild of {name} under way")


def _live(status: ProjectionStatus) -> dict[str, Any]:
    """The live generation, and what to do if other code folded it."""
    live = status.live
    advice = None
    if live.stale:
        advice = f"it was folded by other code or settings; run: loopledger rebuild {live.name}"
        if status.rebuild is not None:
            advice = f"a rebuild is {status.rebuild.status}; run: loopledger rebuild {live.name}"
    return {**msgspec.structs.asdict(live), "advice": advice}


def _details(status: ProjectionStatus) -> ProjectionDetails:
    return ProjectionDetails(**_live(status), generations=status.generations)


_ONE = "/v1/projections/{name}"
_DONE = (HTTPStatus.OK, HTTPStatus.ACCEPTED)

ROUTES = [
    Route(
        method="GET",
        path="/v1/projections",
        handler=list_projections,
        answer=Page[ProjectionSummary, None],
        scope="read",
    ),
    Route(
        method="GET",
        path="/v1/generations",
        handler=list_generations,
        whole=whole_generations,
        media_types=LIST_MEDIA,
        query=list_query_of(GENERATIONS, "GenerationListQuery"),
        answer=Page[GenerationStatus, str],
        errors=(*COMMON_ERRORS, CursorError, *LIST_ERRORS),
        scope="read",
    ),
    Route(
        method="GET",
        path=_ONE,
        handler=show_projection,
        path_parameters=ProjectionPath,
        answer=ProjectionDetails,
        errors=(*COMMON_ERRORS, NotSetUpError, NotFoundError),
        scope="read",
    ),
    Route(
        method="POST",
        path=f"{_ONE}/rebuild",
        handler=start_rebuild,
        path_parameters=ProjectionPath,
        query=RebuildQuery,
        answer=Rebuild,
        statuses=(HTTPStatus.ACCEPTED,),
        errors=(*COMMON_ERRORS, NotSetUpError, NotFoundError, RebuildingError),
        scope="operate",
    ),
    Route(
        method="GET",
        path=f"{_ONE}/rebuild",
        handler=show_rebuild,
        path_parameters=ProjectionPath,
        answer=Rebuild,
        errors=(*COMMON_ERRORS, NotSetUpError, NotFoundError),
        scope="read",
    ),
    Route(
        method="POST",
        path=f"{_ONE}/promote",
        handler=promote,
        path_parameters=ProjectionPath,
        answer=ProjectionDetails,
        statuses=_DONE,
        errors=(*COMMON_ERRORS, NotSetUpError, NotFoundError, NotReadyError, NotSwitchedError),
        scope="operate",
    ),
    Route(
        method="POST",
        path=f"{_ONE}/discard",
        handler=discard,
        path_parameters=ProjectionPath,
        answer=ProjectionDetails,
        statuses=_DONE,
        errors=(*COMMON_ERRORS, NotSetUpError, NotFoundError),
        scope="operate",
    ),
    Route(
        method="POST",
        path=f"{_ONE}/rollback",
        handler=roll_back,
        path_parameters=ProjectionPath,
        answer=ProjectionDetails,
        statuses=_DONE,
        errors=(
            *COMMON_ERRORS,
            NotSetUpError,
            NotFoundError,
            NothingRetiredError,
            NotSwitchedError,
            RebuildingError,
        ),
        scope="operate",
    ),
    Route(
        method="GET",
        path=f"{_ONE}/quarantine",
        handler=list_quarantine,
        whole=whole_quarantine,
        media_types=LIST_MEDIA,
        path_parameters=ProjectionPath,
        query=list_query_of(QUARANTINE, "QuarantineListQuery"),
        answer=Page[QuarantinedEvent, str],
        errors=(*COMMON_ERRORS, CursorError, *LIST_ERRORS, NotSetUpError, NotFoundError),
        per_merchant=True,
        scope="read",
    ),
    Route(
        method="GET",
        path=f"{_ONE}/quarantine/{{position}}",
        handler=show_quarantined,
        path_parameters=QuarantinedPath,
        answer=QuarantinedEvent,
        errors=(*COMMON_ERRORS, NotSetUpError, NotFoundError),
        per_merchant=True,
        scope="read",
    ),
]
