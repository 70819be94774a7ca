"""The list of events, oldest or newest first, filtered by what is on record of each.

The log pays next to nothing for its filters: an index says which blocks of it may hold a value. So a page is looked for
in windows of positions, from where it begins, each larger than the one before, until it is full.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from eventstore.errors import CursorError
from eventstore.log.reader import contiguous
from eventstore.query.cursor import JsonPage, decode_cursor, encode_cursor
from eventstore.query.filters import POSITION, recorded_filters
from eventstore.query.listing import Filter, Listing, ListReader, Question, Statement
from eventstore.query.queries import QUERIES
from eventstore.query.row_json import Field
from eventstore.query.visibility import Visibility

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.postgres.database import Database

# Positions of the first window of a filtered page, and how much larger each further one is.
FIRST_WINDOW = 2_000
GROWTH = 8

# The filters by a value of an event, which live streams offer too.
VALUE_FILTERS: Mapping[str, Filter] = {
    "provider": Filter(str, "provider = {0}", "Only of this provider."),
    "merchant_id": Filter(str, "merchant_id = {0}", "Only of this merchant."),
    "program_id": Filter(str, "program_id = {0}", "Only of this programme."),
    "topic": Filter(str, "topic = {0}", "Only of this topic, as the provider names it."),
    "stream": Filter(
        str,
        # As the index of streams has it.
        "hashtextextended(stream, 0) = hashtextextended({0}, 0) AND stream = {0}",
        "Only of this thing, by the name of its stream.",
    ),
}

EVENTS = Listing(
    name="events",
    query="list_events",
    fields={
        field.name: field
        for field in (
            Field("position", "position", "bigint"),
            Field("event_id", "event_id", "uuid"),
            Field("provider", "provider", "text"),
            Field("topic", "topic", "text"),
            Field("merchant_id", "merchant_id", "text"),
            Field("program_id", "program_id", "text", nullable=True),
            Field("stream", "stream", "text"),
            Field("received_at", "received_at", "timestamp with time zone"),
            Field("recorded_at", "recorded_at", "timestamp with time zone"),
            Field("size", "octet_length(body)", "integer"),
        )
    },
    filters={**VALUE_FILTERS, **recorded_filters("it was recorded")},
    sorts={"position": (POSITION,)},
    merchant="merchant_id",
)


class Span(msgspec.Struct, frozen=True):
    """The positions behind `after`, up to `through`."""

    after: int
    through: int

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return self.after >= self.through

    def windows(self, first: int, *, descending: bool) -> Iterator["Span"]:
        """The span in parts, the first of `first` positions, from its end if `descending`."""
        size, left = first, self
        while not left.is_empty:
            if descending:
                cut = max(left.after, left.through - size)
                yield Span(cut, left.through)
                left = Span(left.after, cut)
            else:
                cut = min(left.through, left.after + size)
                yield Span(left.after, cut)
                left = Span(cut, left.through)
            size *= GROWTH


class EventLists:
    """Reads the list of events of one database."""

    def __init__(self, database: "Database") -> None:
        self._database = database
        self._lists = ListReader(database)

    async def page(
        self,
        question: Question,
        visibility: Visibility,
        *,
        limit: int,
        cursor: str | None = None,
        after: int = 0,
    ) -> JsonPage:
        """A page of at most `limit` events behind position `after`. Raises CursorError."""
        asked = [EVENTS.identity(question, (after,))]
        begin = None
        if cursor is not None:
            begin = int(decode_cursor(asked, cursor, ["bigint"])[0])
            if begin < 0:
                raise CursorError(parameter="cursor")
        descending = EVENTS.sort_of(question)[1]
        filters, span = await self._span(question, after, begin, descending=descending)
        rest = msgspec.structs.replace(question, filters=filters)
        found = await self._find(rest, visibility, span, limit + 1)
        following = None
        if len(found) > limit:
            following = encode_cursor(asked, found[limit - 1]["key"])
        return JsonPage([row["item"] for row in found[:limit]], following)

    async def last_complete(self) -> int:
        """Up to which position no event is missing."""
        through: int = await self._database.fetchval(
            QUERIES["read_complete"], self._database.distributed
        )
        return through

    async def _span(
        self, question: Question, after: int, begin: int | None, *, descending: bool
    ) -> tuple[Mapping[str, Any], Span]:
        """Where the page may be, and the filters that are left."""
        filters = dict(question.filters)
        through = await self.last_complete()
        if isinstance(since := filters.pop("recorded_since", None), datetime):
            after = max(after, await self._lists.first_recorded(since) - 1)
        if isinstance(before := filters.pop("recorded_before", None), datetime):
            through = min(through, await self._lists.first_recorded(before) - 1)
        if begin is not None and descending:
            through = min(through, begin - 1)
        elif begin is not None:
            after = max(after, begin)
        return filters, Span(after, through)

    async def _find(
        self, question: Question, visibility: Visibility, span: Span, limit: int
    ) -> "list[Record]":
        descending = EVENTS.sort_of(question)[1]
        if "stream" in question.filters:
            # An index has them in order.
            return await self._read(question, visibility, span, limit) if not span.is_empty else []
        if not question.filters and visibility.merchants is None:
            return await self._read_all(question, visibility, span, limit)
        found: list[Record] = []
        for number, window in enumerate(span.windows(FIRST_WINDOW, descending=descending)):
            left = limit - len(found)
            found += await self._read(question, visibility, window, left, planned=number > 0)
            if len(found) == limit:
                break
        return found

    async def _read_all(
        self, question: Question, visibility: Visibility, span: Span, limit: int
    ) -> "list[Record]":
        """Every event of the span, as far as none is missing."""
        descending = EVENTS.sort_of(question)[1]
        window = next(span.windows(limit, descending=descending), None)
        if window is None:
            return []
        rows = await self._read(question, visibility, window, limit)
        positions = [int(row["key"][0]) for row in rows]
        if descending:
            # The same, counted downwards.
            return rows[: contiguous(-window.through - 1, [-each for each in positions])]
        return rows[: contiguous(window.after, positions)]

    async def _read(
        self,
        question: Question,
        visibility: Visibility,
        span: Span,
        limit: int,
        *,
        planned: bool = False,
    ) -> "list[Record]":
        """The events of a span; `planned`: by a plan that is made for it, since much depends on how large it is."""
        sql, values = events_statement(question, visibility, span, limit)
        if not planned:
            return await self._database.fetch(sql, *values)
        async with self._database.transaction() as connection:
            await connection.execute(QUERIES["plan_for_values"])
            return await connection.fetch(sql, *values)


def events_statement(
    question: Question, visibility: Visibility, span: Span, limit: int | None = None
) -> Statement:
    """The statement that lists the events of a span."""
    return EVENTS.statement(question, visibility, given=(span.after, span.through), limit=limit)
