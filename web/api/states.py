"""Projected state as JSON: lists, one thing, and its history. Every projection is served alike.

`gift_cards` is at `/v1/gift-cards`, with its own columns as filters; a new projection needs nothing here.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from eventstore.fold.columns import mask
from eventstore.fold.projection import Projection
from eventstore.fold.quarantine import Quarantine
from eventstore.fold.status import Change
from eventstore.log.streams import stream_part
from eventstore.query.history import Step, history
from eventstore.query.states import StateView
from web import parameters
from web.context import CONTEXT, Context, Page, json_response
from web.problems import AmbiguousError, NotFoundError

# How many holders of one id an answer to an ambiguous request names.
MOST_HOLDERS = 20


class Resource:
    """The answers about one projection."""

    def __init__(self, projection: Projection[Any]) -> None:
        self.path = f"/v1/{projection.name.replace('_', '-')}"
        self._projection = projection
        self._view = StateView(projection)
        self._secrets = frozenset(c.name for c in self._view.columns if c.secret)
        self._filters = (*projection.indexes, *(("deleted",) if projection.tombstone else ()))

    def routes(self) -> list[web.RouteDef]:
        """The routes of this resource."""
        return [
            web.get(self.path, self.page),
            web.get(f"{self.path}/{{id}}", self.show),
            web.get(f"{self.path}/{{id}}/history", self.history),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """`GET /v1/<kind>`: a page, in the order of the streams, filtered by equality."""
        context = request.app[CONTEXT]
        parameters.known_only(request, {"limit", "cursor", "at_least", *self._filters})
        limit = parameters.page_length(request)
        after = parameters.after_cursor(request)
        filters = self._given_filters(request, self._filters)
        await self._wait(request)
        rows = await context.database.fetch(
            self._view.page(filters), after, limit + 1, *filters.values()
        )
        more = len(rows) > limit
        items = [self._item(dict(row)) for row in rows[:limit]]
        cursor = parameters.text_cursor(rows[limit - 1]["stream"]) if more else None
        return json_response(Page(items, cursor))

    async def show(self, request: web.Request) -> web.Response:
        """`GET /v1/<kind>/{id}`."""
        parameters.known_only(request, {"at_least", "merchant_id", "provider"})
        await self._wait(request)
        found = await self._find(request)
        if not found:
            raise self._not_found(request)
        if len(found) > 1:
            raise self._ambiguous(request, [(row["provider"], row["merchant_id"]) for row in found])
        return json_response(self._item(dict(found[0])))

    async def history(self, request: web.Request) -> web.Response:
        """`GET /v1/<kind>/{id}/history`: each event of its stream and what it did."""
        context = request.app[CONTEXT]
        parameters.known_only(request, {"at_least", "merchant_id", "provider", "limit", "cursor"})
        limit = parameters.page_length(request)
        after = parameters.whole_number(request, "cursor", 0)
        await self._wait(request)
        stream = await self._stream(request)
        steps: list[Step] = []
        async for step in history(
            self._projection,
            context.providers,
            context.reader.stream(stream),
            await Quarantine(context.database).errors(self._projection.name, stream),
        ):
            if step.position > after:
                steps.append(self._masked_step(step))
            if len(steps) > limit:
                break
        more = len(steps) > limit
        return json_response(Page(steps[:limit], steps[limit - 1].position if more else None))

    async def _wait(self, request: web.Request) -> None:
        """Honour `at_least`: the answer is to hold that position."""
        if position := parameters.whole_number(request, "at_least", 0):
            context = request.app[CONTEXT]
            await context.registry.wait_for(
                self._projection.name, position, context.limits.at_least_seconds
            )

    def _given_filters(self, request: web.Request, names: tuple[str, ...]) -> dict[str, object]:
        return {
            name: parameters.flag(request, name)
            if name == "deleted"
            else parameters.storable(request.query[name], name)
            for name in names
            if name in request.query
        }

    async def _find(self, request: web.Request) -> list[Any]:
        context = request.app[CONTEXT]
        filters = self._given_filters(request, ("merchant_id", "provider"))
        return await context.database.fetch(
            self._view.find(filters), self._id(request), MOST_HOLDERS, *filters.values()
        )

    async def _stream(self, request: web.Request) -> str:
        """The one stream of the thing asked for; something of it may have got no further than quarantine."""
        found = {row["stream"] for row in await self._find(request)}
        if not found:
            found = await self._quarantined_streams(request.app[CONTEXT], request)
        if not found:
            raise self._not_found(request)
        if len(found) > 1:
            holders = [stream.split("/")[:2] for stream in sorted(found)]
            raise self._ambiguous(request, [(name, merchant) for name, merchant in holders])
        return found.pop()

    async def _quarantined_streams(self, context: Context, request: web.Request) -> set[str]:
        streams = await Quarantine(context.database).streams(
            self._projection.name, stream_part(self._id(request))
        )
        wanted = {
            place: stream_part(request.query[name])
            for place, name in ((0, "provider"), (1, "merchant_id"))
            if name in request.query
        }
        return {
            stream
            for stream in streams
            if all(stream.split("/")[place] == part for place, part in wanted.items())
        }

    def _id(self, request: web.Request) -> str:
        return parameters.storable(request.match_info["id"], "id")

    def _item(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._masked(name, value) for name, value in row.items()}

    def _masked(self, name: str, value: Any) -> Any:  # noqa: ANN401 - the value of any column
        return mask(value) if name in self._secrets else value

    def _masked_step(self, step: Step) -> Step:
        changes = {
            name: Change(self._masked(name, change.before), self._masked(name, change.after))
            for name, change in step.changes.items()
        }
        return msgspec.structs.replace(step, changes=changes)

    def _not_found(self, request: web.Request) -> NotFoundError:
        kind = self._projection.name.removesuffix("s").replace("_", " ")
        return NotFoundError(what=f"{kind} {request.match_info['id']!r}")

    def _ambiguous(self, request: web.Request, holders: list[tuple[str, str]]) -> AmbiguousError:
        return AmbiguousError(
            what=f"id {request.match_info['id']!r}",
            holders=[{"provider": name, "merchant_id": merchant} for name, merchant in holders],
        )
