"""States as they are now: a page of them, or one."""

import inspect
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from eventstore.errors import AmbiguousError, NotFoundError, NotSetUpError
from eventstore.fold.columns import identifier, mask, names_of, shown_columns_of
from eventstore.fold.generation import SCHEMA
from eventstore.fold.projection import Projection
from eventstore.query.cursor import Page, decode_cursor, encode_cursor, page_of
from eventstore.query.filters import OWNER_FILTERS, Filter, conditions, filters_of
from eventstore.query.queries import QUERIES
from eventstore.query.visibility import Visibility

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.fold.registry import Registry
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

# How many owners of one id an AmbiguousError names.
MOST_OWNERS = 20


class States:
    """The states of one projection: those of its live generation, each a `row_type`, as far as a Visibility shows them.

    `at_least` is a position that what is read must have folded: see Registry.wait_for, whose NotFoldedError it raises.
    """

    def __init__(
        self,
        projection: Projection[Any],
        database: "Database",
        registry: "Registry",
        limits: "Limits",
    ) -> None:
        columns = shown_columns_of(projection.state)
        self.projection = projection
        self.row_type = row_type_of(projection)
        self.filters = filters_of(projection)
        self._database = database
        self._registry = registry
        self._limits = limits
        # Behind stream and position.
        self._secrets = tuple(n for n, column in enumerate(columns, 2) if column.secret)
        self._words = {
            "table": f"{SCHEMA}.{identifier(projection.name)}",
            "names": names_of(columns),
            "key": projection.key,
        }

    async def page(
        self,
        visibility: Visibility,
        filters: Mapping[str, object],
        cursor: str | None,
        limit: int,
        at_least: int = 0,
    ) -> Page[Any, str]:
        """A page of at most `limit` states, in the order of their streams; `filters` are of `self.filters`.

        Raises CursorError, NotFoldedError, NotSetUpError.
        """
        after = decode_cursor(self.projection.name, cursor)
        await self.wait_for(at_least)
        query = self._query("page", self.filters, filters)
        rows = await self._fetch(query, visibility.merchants, after, limit + 1, *filters.values())
        return page_of(
            [self._row(visibility, row) for row in rows],
            limit,
            lambda row: encode_cursor(self.projection.name, row.stream),
        )

    async def find(
        self, visibility: Visibility, id_: str, owner: Mapping[str, str], at_least: int = 0
    ) -> msgspec.Struct:
        """The state of the one thing of this id; `owner` says whose, by the names of OWNER_FILTERS.

        Raises NotFoundError, AmbiguousError, NotFoldedError, NotSetUpError.
        """
        await self.wait_for(at_least)
        found = await self.find_all(visibility, id_, owner)
        if not found:
            raise self.not_found(id_)
        if len(found) > 1:
            raise ambiguous(id_, ((row.provider, row.merchant_id) for row in found))
        state: msgspec.Struct = found[0]
        return state

    async def find_all(
        self, visibility: Visibility, id_: str, owner: Mapping[str, str]
    ) -> list[Any]:
        """The states of all things of this id, but no more than MOST_OWNERS."""
        query = self._query("find", OWNER_FILTERS, owner)
        rows = await self._fetch(query, visibility.merchants, id_, MOST_OWNERS, *owner.values())
        return [self._row(visibility, row) for row in rows]

    async def _fetch(self, query: str, *values: object) -> "list[Record]":
        try:
            return await self._database.fetch(query, *values)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            # Nobody has made the tables yet, or only other code.
            raise NotSetUpError(projection=self.projection.name) from error

    async def wait_for(self, position: int) -> None:
        """Return once the projection has folded `position`. Raises NotFoldedError."""
        if position:
            await self._registry.wait_for(
                self.projection.name, position, self._limits.at_least_seconds
            )

    def not_found(self, id_: str) -> NotFoundError:
        """The error for an id that nothing has."""
        kind = self.projection.name.removesuffix("s").replace("_", " ")
        return NotFoundError(what=f"{kind} {id_!r}")

    def _query(self, name: str, known: Mapping[str, Filter], given: Mapping[str, object]) -> str:
        return QUERIES[name].format(**self._words, filters=conditions(known, given, first=4))

    def _row(self, visibility: Visibility, values: Iterable[Any]) -> Any:  # noqa: ANN401 - a `row_type`
        if visibility.revealed or not self._secrets:
            return self.row_type(*values)
        shown = list(values)
        for n in self._secrets:
            shown[n] = mask(shown[n])
        return self.row_type(*shown)


@cache
def row_type_of(projection: Projection[Any]) -> type[msgspec.Struct]:
    """The Struct for a state as it is read: its stream, the position that changed it last, and its fields."""
    state = projection.state
    hints = typing.get_type_hints(state, include_extras=True)
    fields = [(column.name, hints[column.name]) for column in shown_columns_of(state)]
    return msgspec.defstruct(
        f"{state.__name__}Row",
        [("stream", str), ("position", int), *fields],
        namespace={"__doc__": _documentation(state)},
        module=state.__module__,
        frozen=True,
    )


def _documentation(state: type[msgspec.Struct]) -> str:
    """What a state's class and those that it is derived from say of its fields, and what a row has besides."""
    classes = [each for each in state.__mro__ if issubclass(each, msgspec.Struct)]
    said = [inspect.cleandoc(each.__doc__) for each in classes[:-1] if each.__doc__]
    return "\n\n".join(
        [*said, "`stream` names the thing; the event at `position` changed it last."]
    )


def ambiguous(id_: str, owners: Iterable[tuple[str, str]]) -> AmbiguousError:
    """The error for an id of more than one thing: `owners` are provider and merchant of each."""
    return AmbiguousError(
        what=f"id {id_!r}",
        holders=[{"provider": name, "merchant_id": merchant} for name, merchant in owners],
    )
