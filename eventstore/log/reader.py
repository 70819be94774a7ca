"""Reading the log: contiguous slices of it, one stream, one event."""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from eventstore.errors import IncompleteReadError
from eventstore.log.events import Event, EventWithHeaders, ListedEvent, LogSlice
from eventstore.log.failover import FailoverStatus, read_failover
from eventstore.log.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

# How many events of one stream are fetched at a time.
STREAM_PAGE = 500


class Fetching(Protocol):
    """What rows are read by: a pool, or one connection."""

    async def fetch(self, query: str, /, *values: object) -> "list[Record]":
        """Read rows."""


async def read_stream(
    database: Fetching, stream: str, limits: "Limits", after: int = 0
) -> AsyncIterator[Event]:
    """The events on record in one stream after a position, oldest first, fetched in pages."""
    while True:
        rows = await database.fetch(
            QUERIES["read_stream"], stream, after, STREAM_PAGE, limits.fold_bytes
        )
        for row in rows:
            yield Event(*row)
        if not rows:
            return
        after = rows[-1]["position"]


async def read_events(
    database: Fetching, positions: Sequence[int], limits: "Limits"
) -> AsyncIterator[Event]:
    """The events at these positions, in ascending order."""
    left = list(positions)
    while left:
        rows = await database.fetch(QUERIES["read_events"], left, limits.fold_bytes)
        for row in rows:
            yield Event(*row)
        left = left[len(rows) :] if rows else []


class Reader:
    """Reads the log of one database."""

    def __init__(self, database: "Database", limits: "Limits") -> None:
        self._database = database
        self._limits = limits

    async def read_slice(self, after: int, limit: int, topics: Collection[str] | None) -> LogSlice:
        """Read what follows `after`: at most `limit` events, contiguous from after + 1.

        `topics` ("provider topic") are the events wanted, None all of them; the others are counted. The slice ends
        where the log does, or at a gap: then the reader waits. Raises IncompleteReadError.
        """
        rows = await self._database.fetch(
            QUERIES["read_slice"],
            after,
            limit,
            None if topics is None else list(topics),
            self._limits.fold_bytes,
        )
        if not rows:
            return LogSlice(after, after, [])
        last = rows[-1]
        # Events of these topics, and the last one whatever it is; two more columns than an event has.
        events = [Event(*row[:-2]) for row in rows if row["handled"]]
        found = LogSlice(after, last["position"], events)
        if found.ignored != last["ignored"]:
            raise IncompleteReadError(after=after, through=found.through, count=len(events))
        return found

    async def list_events(self, after: int, limit: int) -> list[ListedEvent]:
        """List what follows `after`, without bodies, contiguous from after + 1."""
        rows = await self._database.fetch(QUERIES["list_events"], after, limit)
        return [
            ListedEvent(*row)
            for row in rows[: contiguous(after, [row["position"] for row in rows])]
        ]

    async def failover(self) -> FailoverStatus:
        """On which timeline the log may grow, and how that came to be. Raises LogCorruptedError."""
        return await read_failover(self._database)

    async def event(self, position: int) -> EventWithHeaders | None:
        """One event whole, or None if there is none at `position`."""
        row = await self._database.fetchrow(QUERIES["read_event"], position)
        return None if row is None else EventWithHeaders(*row)

    async def find(self, stream: str, event_id: UUID) -> int | None:
        """The position of an event in its stream, or None."""
        position: int | None = await self._database.fetchval(
            QUERIES["find_in_stream"], stream, event_id
        )
        return position

    def stream(self, stream: str) -> AsyncIterator[Event]:
        """The events on record in one stream, oldest first."""
        return read_stream(self._database, stream, self._limits)


def contiguous(after: int, positions: Sequence[int]) -> int:
    """Count how many of `positions` (ascending) follow `after` without a gap.

    On one Postgres no gap is ever seen; on a sharded engine a commit is not atomic across nodes, and a reader that
    went past a gap would lose the events that fill it.
    """
    for count, position in enumerate(positions):
        if position != after + 1 + count:
            return count
    return len(positions)
