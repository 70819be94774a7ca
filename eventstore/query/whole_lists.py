"""Whole lists, as CSV or as a JSON object a line: out of one snapshot, in as much memory as a chunk takes."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import asyncpg

from eventstore.errors import NotSetUpError, TooManyListsError
from eventstore.query.listing import Listing, ListReader, Question
from eventstore.query.queries import QUERIES
from eventstore.query.row_json import Field
from eventstore.query.visibility import Visibility

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

ListFormat: TypeAlias = Literal["csv", "ndjson"]

Sink: TypeAlias = Callable[[bytes], Coroutine[Any, Any, None]]

# What a spreadsheet takes for the beginning of a formula, after any blanks: full-width signs too.
GUARDED = r"^\s*[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]"

# Control characters that JSON never holds: so COPY, as CSV, neither quotes nor parts its text.
QUOTE, DELIMITER = "\x01", "\x02"


class WholeList(NamedTuple):
    """What is asked of a listing, without pages. `given` are the parameters of its own statement."""

    listing: Listing
    question: Question
    visibility: Visibility
    given: tuple[object, ...] = ()


class WholeLists:
    """Copies whole lists out of one database, so many at a time."""

    def __init__(self, database: "Database", lists: ListReader, limits: "Limits") -> None:
        self._database = database
        self._lists = lists
        self._limits = limits
        self._count = 0

    async def copy(self, whole: WholeList, form: ListFormat, sink: Sink) -> None:
        """Give the list to `sink`, chunk by chunk, each once the one before is taken.

        Raises TooManyListsError, NotSetUpError, TimeoutError if it takes too long, and what `sink` raises.
        """
        if self._count >= self._limits.whole_lists:
            raise TooManyListsError(limit=self._limits.whole_lists)
        self._count += 1
        try:
            await self._copy(whole, form, sink)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise NotSetUpError(projection=whole.listing.name) from error
        finally:
            self._count -= 1

    async def _copy(self, whole: WholeList, form: ListFormat, sink: Sink) -> None:
        listing = whole.listing
        question = await self._lists.resolve(listing, listing.complete(whole.question))
        sql, values = listing.statement(
            question, whole.visibility, given=whole.given, columns=form == "csv"
        )
        if form == "csv":
            fields = [listing.fields[name] for name in question.fields or listing.fields]
            columns = ", ".join(guarded(field) for field in fields)
            options: dict[str, Any] = {"header": True}
        else:
            columns = "item"
            options = {"quote": QUOTE, "delimiter": DELIMITER}
        # One of its own: those of the pool are for who wants little.
        connection = await self._database.connect()
        try:
            await connection.copy_from_query(
                QUERIES["whole_list"].format(columns=columns, list=sql),
                *values,
                output=sink,
                format="csv",
                timeout=self._limits.whole_list_seconds,
                **options,
            )
        finally:
            connection.terminate()


def guarded(field: Field) -> str:
    """SQL for a cell: a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    name = f'"{field.name}"'
    if field.sql_type != "text":
        return name
    return f"CASE WHEN {name} ~ '{GUARDED}' THEN '''' || {name} ELSE {name} END AS {name}"


class LineEnds:
    """Ends the lines of CSV as RFC 4180 has them, in CRLF, where COPY has LF; those inside of a cell stay."""

    def __init__(self) -> None:
        self._inside = False

    def feed(self, data: bytes) -> bytes:
        """The same with such ends. A quote in a cell is two, so every other part between quotes is outside of cells."""
        parts = data.split(b'"')
        first = 1 if self._inside else 0
        for n in range(first, len(parts), 2):
            parts[n] = parts[n].replace(b"\n", b"\r\n")
        self._inside = self._inside == (len(parts) % 2 == 1)
        return b'"'.join(parts)
