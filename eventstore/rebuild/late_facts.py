"""Facts that came late, while a generation is built: what they add follows once the rest of their streams is there."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from eventstore.fold.folding import NewRows
from eventstore.fold.generation import GenerationTables
from eventstore.fold.timeline import STREAM, Late, Row, late_by_stream, settle
from eventstore.fold.writing import GenerationWriter, timeline_names
from eventstore.rebuild.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# Rows of timelines that are read at a time, and that are written together.
ROWS = 5_000

# To read many timelines takes its time: no limit but a day.
READ_SECONDS = 86_400.0


async def write_late(
    reading: "Connection[Record]",
    writing: "Connection[Record]",
    tables: GenerationTables[Any],
    writer: GenerationWriter[Any],
    late: Iterable[Late],
) -> None:
    """Write the rows and the postings of late facts; all other rows of their streams are in the table."""
    left = late_by_stream(late)
    if not left or tables.timeline is None:
        return
    query = QUERIES["read_timelines"].format(
        **tables.timeline.placeholders, names=timeline_names(tables.timeline)
    )
    new = NewRows([], [], [])
    known: list[Row] = []

    async def write(at_least: int) -> None:
        nonlocal new, known
        if known:
            rows = settle(writer.shape, known, left.pop(known[0][STREAM]))
            new.timeline.extend(rows[0])
            new.postings.extend(rows[1])
            known = []
        if len(new.timeline) + len(new.postings) >= at_least:
            await writer.copy_new_rows(writing, new)
            new = NewRows([], [], [])

    async with reading.transaction():
        cursor = await reading.cursor(query, list(left), timeout=READ_SECONDS)
        while rows := await cursor.fetch(ROWS):
            for row in map(tuple, rows):
                if known and known[0][STREAM] != row[STREAM]:
                    await write(ROWS)
                known.append(row)
    await write(0)
