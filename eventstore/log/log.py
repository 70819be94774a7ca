"""The log: append, read, and wait for more."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from eventstore.errors import (
    IncompleteReadError,
    is_outage,
    raise_if_cancelled,
)
from eventstore.log.appender import Appender, OnOutcome
from eventstore.log.events import Appended, Event, EventWithHeaders, ListedEvent, LogSlice, NewEvent
from eventstore.log.head import HeadListener, HeadNotifier
from eventstore.log.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# How many events of one stream are fetched at a time.
STREAM_PAGE = 500


class Log:
    """The log of one database, as one process sees it.

    `head` is the newest position this process knows of; it never goes back. It moves with this process's own appends
    at once, with those of others when they notify, at the latest at the next poll.
    """

    def __init__(self, database: "Database", limits: "Limits") -> None:
        self.head = 0
        self._database = database
        self._limits = limits
        self._appender = Appender(database.connect, limits, self._appended)
        self._notifier = HeadNotifier(database.connect)
        self._heard = asyncio.Event()
        self._listener = HeadListener(database.connect, self._heard.set)
        self._moved: asyncio.Event = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, append: bool = True, follow: bool = True) -> None:
        """Begin to take events (`append`) and to look out for those of other processes (`follow`)."""
        await self._find_head()
        if append:
            await self._appender.start()
            self._tasks.append(asyncio.create_task(self._notifier.run(), name="notifier"))
        if follow:
            self._tasks.append(asyncio.create_task(self._listener.run(), name="listener"))
            self._tasks.append(asyncio.create_task(self._poll(), name="poll"))

    async def stop(self) -> None:
        """Drain the append queue and stop."""
        await self._appender.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def append(self, event: NewEvent) -> Appended:
        """Append one event; answers after COMMIT. Errors: see Appender.append."""
        return await self._appender.append(event)

    def submit(self, event: NewEvent, on_outcome: OnOutcome) -> None:
        """Append one event; `on_outcome` hears what came of it. See Appender.submit."""
        self._appender.submit(event, on_outcome)

    async def wait_beyond(self, position: int) -> None:
        """Return once the log is known to reach beyond `position`."""
        while self.head <= position:
            await self._moved.wait()

    async def read_slice(self, after: int, limit: int, topics: Collection[str] | None) -> LogSlice:
        """Read what follows `after`: at most `limit` events, contiguous from after + 1.

        `topics` ("provider topic") are the events wanted, None all of them; the others are counted. Where the log ends,
        or at a gap, it ends: then the reader waits. Raises IncompleteReadError.
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
        # What is handled comes, the last comes whatever it is: two more columns than an event has.
        events = [Event(*row[:-2]) for row in rows if row["handled"]]
        tail = LogSlice(after, last["position"], events)
        if tail.ignored != last["ignored"]:
            raise IncompleteReadError(after=after, through=tail.through, count=len(events))
        return tail

    async def list_events(self, after: int, limit: int) -> list[ListedEvent]:
        """List what follows `after`, without bodies, contiguous from after + 1."""
        rows = await self._database.fetch(QUERIES["list_events"], after, limit)
        return [
            ListedEvent(*row)
            for row in rows[: contiguous(after, [row["position"] for row in rows])]
        ]

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

    async def stream(self, stream: str) -> AsyncIterator[Event]:
        """The events of one stream, oldest first, fetched in pages."""
        after = 0
        while True:
            rows: list[Record] = await self._database.fetch(
                QUERIES["read_stream"], stream, after, STREAM_PAGE, self._limits.fold_bytes
            )
            for row in rows:
                yield Event(*row)
            if not rows:
                return
            after = rows[-1]["position"]

    def _appended(self, head: int) -> None:
        self._advance(head)
        self._notifier.moved(head)

    def _advance(self, head: int) -> None:
        if head > self.head:
            self.head = head
            self._moved.set()
            self._moved = asyncio.Event()

    async def _find_head(self) -> None:
        self._advance(await self._database.fetchval(QUERIES["read_head"]))

    async def _poll(self) -> None:
        """Look where the head is when told that it moved, and now and then anyway: that is the truth."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.poll_seconds):
                    await self._heard.wait()
            self._heard.clear()
            try:
                await self._find_head()
            except Exception as error:
                raise_if_cancelled()
                if not is_outage(error):
                    logger.exception("could not look for the head")
                await asyncio.sleep(self._limits.poll_seconds)


def contiguous(after: int, positions: Sequence[int]) -> int:
    """Count how many of `positions` (ascending) follow `after` without a gap.

    On one Postgres no gap is ever seen; on a sharded engine a commit is not atomic across nodes, and a reader that
    went past a gap would lose the events that fill it.
    """
    for count, position in enumerate(positions):
        if position != after + 1 + count:
            return count
    return len(positions)
