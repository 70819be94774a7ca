"""States as they are now: a page of them, or one."""

import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import msgspec

from eventstore.errors import AmbiguousError, NotFoundError, NotSetUpError
from eventstore.fold.columns import shown_columns_of
from eventstore.fold.generation import EFFECTIVE_AT
from eventstore.fold.projection import Projection
from eventstore.query.cursor import JsonPage
from eventstore.query.filters import secrets_listing, states_listing
from eventstore.query.listing import ListReader, Question
from eventstore.query.money import DIGITS, NO_UNITS, UnitsByProvider, major_name
from eventstore.query.visibility import Visibility

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.fold.registry import Registry
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

# What is said of the fields that every row has.
COMMON = (
    "`stream` names the thing; the event at `position` changed it last. `effective_at` is when the newest of its "
    "events counts: the provider's time or, where it gives none, the recorded one."
)

MONEY = "`minor_units` is how many digits the minor unit of `currency` has behind the point; null if that is not known."
MAJOR = "`{major}` is `{amount}` in major units, with all these digits."

# How many owners of one id an AmbiguousError names.
MOST_OWNERS = 20


class Found(NamedTuple):
    """A state as JSON, and the generation that it is of."""

    json: str
    generation: str


class States:
    """The states of one projection: those of its live generation, each a row, as far as a Visibility shows them.

    `row_type` describes a row. `at_least` is a position that what is read must have folded: see Registry.wait_for,
    whose NotFoldedError it raises.
    """

    def __init__(
        self,
        projection: Projection[Any],
        database: "Database",
        registry: "Registry",
        limits: "Limits",
        units: UnitsByProvider = NO_UNITS,
    ) -> None:
        self.projection = projection
        self.row_type = row_type_of(projection)
        self.listing = states_listing(projection, units)
        self._secrets_listing = secrets_listing(projection, units)
        self._database = database
        self._lists = ListReader(database)
        self._registry = registry
        self._limits = limits

    async def page(
        self,
        visibility: Visibility,
        question: Question,
        cursor: str | None,
        limit: int,
        at_least: int = 0,
    ) -> JsonPage:
        """A page of at most `limit` states. Raises CursorError, NotFoldedError, NotSetUpError."""
        await self.wait_for(at_least)
        with self._set_up():
            return await self._lists.page(
                self.listing, question, visibility, limit=limit, cursor=cursor
            )

    async def find(
        self,
        visibility: Visibility,
        id_: str,
        owner: Mapping[str, str],
        at_least: int = 0,
        fields: tuple[str, ...] | None = None,
    ) -> Found:
        """The state of the one thing of this id; `owner` says whose, by merchant_id and provider.

        Raises NotFoundError, AmbiguousError, NotFoldedError, NotSetUpError.
        """
        await self.wait_for(at_least)
        question = self._question_for(id_, owner, fields)
        sql, values = self.listing.statement(question, visibility, limit=2)
        rows = await self._fetch(sql, *values)
        if not rows:
            raise self.not_found(id_)
        if len(rows) > 1:
            owners = self._question_for(id_, owner, ("provider", "merchant_id"))
            sql, values = self.listing.statement(
                owners, visibility, limit=MOST_OWNERS, columns=True
            )
            raise ambiguous(id_, [tuple(row) for row in await self._fetch(sql, *values)])
        return Found(rows[0]["item"], rows[0]["version"])

    async def find_by_secret(self, visibility: Visibility, name: str, value: str) -> JsonPage:
        """The states whose secret field `name` is exactly this, deleted ones too, masked; no more than MOST_OWNERS."""
        masked = msgspec.structs.replace(visibility, revealed=False)
        sql, values = self._secrets_listing.statement(
            Question(filters={name: value}), masked, limit=MOST_OWNERS
        )
        found = [] if "\0" in value else await self._fetch(sql, *values)
        return JsonPage([row["item"] for row in found], None)

    async def find_streams(
        self, visibility: Visibility, id_: str, owner: Mapping[str, str]
    ) -> set[str]:
        """The streams of all things of this id, but no more than MOST_OWNERS."""
        question = self._question_for(id_, owner, ("stream",))
        sql, values = self.listing.statement(question, visibility, limit=MOST_OWNERS, columns=True)
        return {row["stream"] for row in await self._fetch(sql, *values)}

    def _question_for(
        self, id_: str, owner: Mapping[str, str], fields: tuple[str, ...] | None
    ) -> Question:
        filters = {self.projection.key: id_, **owner}
        if "deleted" in self.listing.filters:
            filters["deleted"] = "any"
        return Question(filters=filters, fields=fields)

    async def _fetch(self, query: str, *values: object) -> "list[Record]":
        with self._set_up():
            return await self._database.fetch(query, *values)

    @contextmanager
    def _set_up(self) -> Iterator[None]:
        """Turn what Postgres says of tables that are not as this code needs them into a NotSetUpError."""
        try:
            yield
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


@cache
def row_type_of(projection: Projection[Any]) -> type[msgspec.Struct]:
    """The Struct for a state as it is read: its stream, the position that changed it last, and its fields."""
    state = projection.state
    hints = typing.get_type_hints(state, include_extras=True)
    fields = [(column.name, hints[column.name]) for column in shown_columns_of(state)]
    if projection.effective_at:
        fields.append((EFFECTIVE_AT.name, datetime | None))
    if (money := projection.money) is not None:
        fields.append((DIGITS, int | None))
        if money.minor:
            fields.append((major_name(money), Decimal | None))
    return msgspec.defstruct(
        f"{state.__name__}Row",
        [("stream", str), ("position", int), *fields],
        namespace={"__doc__": _documentation(projection)},
        module=state.__module__,
        frozen=True,
    )


def _documentation(projection: Projection[Any]) -> str:
    """What a state's class and those that it is derived from say of its fields, and what a row has besides."""
    state = projection.state
    classes = [each for each in state.__mro__ if issubclass(each, msgspec.Struct)]
    said = [inspect.cleandoc(each.__doc__) for each in classes[:-1] if each.__doc__]
    if (money := projection.money) is not None:
        said.append(MONEY)
        if money.minor:
            said.append(MAJOR.format(major=major_name(money), amount=money.amount))
    return "\n\n".join([*said, COMMON])


def ambiguous(id_: str, owners: Iterable[tuple[str, str]]) -> AmbiguousError:
    """The error for an id of more than one thing: `owners` are provider and merchant of each."""
    return AmbiguousError(
        what=f"id {id_!r}",
        holders=[{"provider": name, "merchant_id": merchant} for name, merchant in owners],
    )
