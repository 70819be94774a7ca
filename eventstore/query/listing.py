"""Lists of anything: one value says what a list offers, and makes one statement of what is asked of it.

A `Listing` has `fields` (of a row), `filters` and `sorts` by name, and says whose things its rows are. A `Question` is
what a request asks of it: filters with their values, a sort, the fields that are wanted.

    listing = states_listing(projection)                                   # or EVENTS, REJECTIONS, ...
    question = Question(filters={"status": "ACTIVE", "deleted": "false"}, sort="-balance", fields=("id", "balance"))
    page = await ListReader(database).page(listing, question, visibility, limit=50, cursor=None)
    page.body                                                              # {"items":[...],"next":"..."}, as bytes

Whoever wants rows in another way (a whole list as CSV or NDJSON, a live stream) makes the statement itself:

    question = await reader.resolve(listing, question)                     # recorded times become positions
    sql, values = listing.statement(question, visibility)                  # "item": text of JSON; "key": text[]
    sql, values = listing.statement(question, visibility, columns=True)    # each field as a text of its own
    condition, values = listing.conditions(question, visibility, first=3)  # to put into another statement

The statement has no limit unless it is given one, and names its parameters $1, $2, ... in the order of `values`; where
the listing's own statement has parameters, `given` are their values, and they come first. A filter that has a default
counts where the question leaves it out: `Question.of` fills it in. Every filter and sort has an index behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventstore.query.cursor import JsonPage, decode_cursor, encode_cursor
from eventstore.query.queries import QUERIES
from eventstore.query.row_json import Field, json_object, text_columns
from eventstore.query.visibility import Visibility

if TYPE_CHECKING:
    from eventstore.postgres.database import Database

# What stands for the conditions and the limit in a statement that is kept, and how many are kept.
CONDITIONS, AT_MOST = "\0conditions", "\0at_most"
TEMPLATES_KEPT = 500


class Filter(NamedTuple):
    """A filter: the `type` of its value, `condition` in SQL, what it means.

    `condition` names the value {0}; of a value that is one of some words there may be a condition for each. `prepare`
    makes more parameters than the value itself: {0}, {1}, ... `default` counts where nothing is said. `by_recorded`:
    the value is a time, and the condition names the first position that was recorded then or later.
    """

    type: Any
    condition: str | Mapping[str, str]
    description: str
    prepare: Callable[[Any], Sequence[object]] | None = None
    default: object = None
    by_recorded: bool = False


class Key(NamedTuple):
    """What a list is sorted by: SQL that is never null, and its type."""

    expression: str
    sql_type: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a listing: `filters` with their values, a `sort` ("-" before it: downwards), and `fields`.

    No sort is the listing's first one, no fields are all.
    """

    filters: Mapping[str, Any] = {}
    sort: str | None = None
    fields: tuple[str, ...] | None = None


class Statement(NamedTuple):
    """SQL and the values of its parameters."""

    sql: str
    values: tuple[object, ...]


class Listing(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a list offers. `query` names its statement in query.sql, `words` are what stands for placeholders there.

    `merchant` is SQL for whose thing a row is; `merchant_value` is what a merchant's id is there. A list without it has
    nothing for a key that is bound to merchants. `version` is SQL for what all rows were made from, as text. The keys
    of a sort are together unique; `default_sort` is the first one if it is empty.
    """

    name: str
    query: str
    words: Mapping[str, str] = {}
    fields: Mapping[str, Field]
    filters: Mapping[str, Filter]
    sorts: Mapping[str, tuple[Key, ...]]
    merchant: str | None
    merchant_value: Callable[[str], str] = str
    default_sort: str = ""
    version: str | None = None

    @property
    def sort_words(self) -> tuple[str, ...]:
        """What a request may say of the sort: each, upwards and downwards."""
        return tuple(word for name in self.sorts for word in (name, f"-{name}"))

    @property
    def usual_sort(self) -> str:
        """The sort where nothing is said of it."""
        return self.default_sort or next(iter(self.sorts))

    def complete(self, question: Question) -> Question:
        """The same question with what counts where it says nothing."""
        filters = {
            name: one.default for name, one in self.filters.items() if one.default is not None
        }
        return msgspec.structs.replace(
            question,
            filters=filters | dict(question.filters),
            sort=question.sort or self.usual_sort,
        )

    def conditions(self, question: Question, visibility: Visibility, first: int) -> Statement:
        """SQL that holds for the rows that are asked for, its parameters numbered from `first` on.

        The question has to be complete, and its recorded times resolved.
        """
        parts: list[str] = []
        values: list[object] = []

        def add(condition: str, *parameters: object) -> None:
            numbers = [f"${first + len(values) + n}" for n in range(len(parameters))]
            parts.append(condition.format(*numbers))
            values.extend(parameters)

        if visibility.merchants is not None:
            merchants = list(map(self.merchant_value, visibility.merchants))
            if self.merchant is None:
                add("false")
            elif len(merchants) == 1:
                # Then an index gives them in order.
                add(f"{self.merchant} = {{0}}", *merchants)
            else:
                add(f"{self.merchant} = ANY({{0}}::text[])", merchants)
        for name, value in question.filters.items():
            one = self.filters[name]
            if not isinstance(one.condition, str):
                add(one.condition[str(value)])
            elif one.prepare is not None:
                add(one.condition, *one.prepare(value))
            else:
                add(one.condition, value)
        return Statement(" AND ".join(parts) or "true", tuple(values))

    def statement(
        self,
        question: Question,
        visibility: Visibility,
        *,
        given: Sequence[object] = (),
        after: Sequence[str] | None = None,
        limit: int | None = None,
        columns: bool = False,
    ) -> Statement:
        """The statement that answers a question: at most `limit` rows, from behind the key `after`, if there is one.

        A row has `item`, JSON, and `key`; or, with `columns`, a text for each field.
        """
        question = self.complete(question)
        keys, descending = self.sort_of(question)
        conditions, values = self.conditions(question, visibility, len(given) + 1)
        every = [*given, *values]
        if after is not None:
            numbers = range(len(every) + 1, len(every) + 1 + len(after))
            behind = ", ".join(
                f"${n}::text::{key.sql_type}" for n, key in zip(numbers, keys, strict=True)
            )
            what = ", ".join(key.expression for key in keys)
            conditions += f" AND ({what}) {'<' if descending else '>'} ({behind})"
            every += after
        sql = self._template(
            question.sort or "", question.fields, revealed=visibility.revealed, columns=columns
        )
        # As a parameter it could be anything: Postgres would plan the statement each time anew.
        at_most = "" if limit is None else f"LIMIT {limit:d}"
        return Statement(
            sql.replace(CONDITIONS, conditions).replace(AT_MOST, at_most), tuple(every)
        )

    @lru_cache(TEMPLATES_KEPT)  # noqa: B019 - there are few listings, and they stay
    def _template(
        self, sort: str, names: tuple[str, ...] | None, *, revealed: bool, columns: bool
    ) -> str:
        """The statement of a complete question, but for CONDITIONS and AT_MOST: to make it takes longest."""
        keys, descending = self.sort_of(Question(sort=sort))
        direction = " DESC" if descending else ""
        fields = [self.fields[name] for name in names or self.fields]
        key = ", ".join(f"({key.expression})::text" for key in keys)
        return QUERIES[self.query].format(
            **self.words,
            item=text_columns(fields, revealed=revealed)
            if columns
            else f"{json_object(fields, revealed=revealed)} AS item, ARRAY[{key}] AS key"
            + ("" if self.version is None else f", {self.version} AS version"),
            conditions=CONDITIONS,
            order=", ".join(key.expression + direction for key in keys),
            at_most=AT_MOST,
        )

    def sort_of(self, question: Question) -> tuple[tuple[Key, ...], bool]:
        """What a question sorts by, and whether downwards."""
        sort = question.sort or self.usual_sort
        return self.sorts[sort.removeprefix("-")], sort.startswith("-")

    def identity(self, question: Question, given: Sequence[object]) -> object:
        """What a cursor is bound to: everything that is asked, but for the fields."""
        question = self.complete(question)
        return [self.name, question.sort, question.filters, list(given)]


class ListReader:
    """Reads lists from one database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    async def page(
        self,
        listing: Listing,
        question: Question,
        visibility: Visibility,
        *,
        limit: int,
        cursor: str | None = None,
        given: Sequence[object] = (),
    ) -> JsonPage:
        """One page of at most `limit` rows, the first one or the one that `cursor` leads to. Raises CursorError."""
        asked = listing.identity(question, given)
        after = None
        if cursor is not None:
            keys, _ = listing.sort_of(question)
            after = decode_cursor(asked, cursor, [key.sql_type for key in keys])
        sql, values = listing.statement(
            await self.resolve(listing, question),
            visibility,
            given=given,
            after=after,
            limit=limit + 1,
        )
        rows = await self._database.fetch(sql, *values)
        following = encode_cursor(asked, rows[limit - 1]["key"]) if len(rows) > limit else None
        version = rows[0]["version"] if rows and listing.version is not None else ""
        return JsonPage([row["item"] for row in rows[:limit]], following, version)

    async def resolve(self, listing: Listing, question: Question) -> Question:
        """The same question with positions in place of recorded times."""
        filters = dict(question.filters)
        for name, value in question.filters.items():
            if listing.filters[name].by_recorded and isinstance(value, datetime):
                filters[name] = await self.first_recorded(value)
        return msgspec.structs.replace(question, filters=filters)

    async def first_recorded(self, moment: datetime) -> int:
        """The first position that was recorded at this time or later, or will be."""
        position: int = await self._database.fetchval(QUERIES["first_recorded"], moment)
        return position
