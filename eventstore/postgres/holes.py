"""Holes in the log: positions up to the head that hold no event. Nothing of ours makes one."""

from typing import TYPE_CHECKING

from eventstore.errors import LogCorruptedError
from eventstore.postgres.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.postgres.database import Database

# Among so many of the newest events a start looks for a hole, and so does whoever says that it is ready.
CHECKED_EVENTS = 10_000


async def find_hole(
    source: "Connection[Record] | Database", after: int, through: int
) -> int | None:
    """The first position after `after`, up to `through`, that holds no event; None if all do."""
    # To count reads an index and little else.
    count = await source.fetchval(QUERIES["count_events"], after, through)
    if count == through - after:
        return None
    hole: int | None = await source.fetchval(QUERIES["find_hole"], after, through)
    return hole


async def check_head(connection: "Connection[Record]") -> None:
    """See that the head is where the events end, and that there is no hole where it matters now.

    That is among the newest events, and where folding goes on: behind a checkpoint, folding has found none. Raises
    LogCorruptedError.
    """
    row = await connection.fetchrow(QUERIES["check_head"])
    if row is None:
        raise LogCorruptedError(problem="no head row")
    head = row["head"]
    if row["may_come_late"]:
        return
    if head != row["newest"]:
        raise LogCorruptedError(problem=f"head {head}, newest event {row['newest']}")
    starts = [max(0, head - CHECKED_EVENTS)]
    starts += [each["checkpoint"] for each in await connection.fetch(QUERIES["live_checkpoints"])]
    for start in starts:
        end = min(head, start + CHECKED_EVENTS)
        hole = await find_hole(connection, start, end)
        if hole is not None:
            raise LogCorruptedError(problem=f"head {head}, but there is no event {hole}")
