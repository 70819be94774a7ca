"""Group commit: while one batch commits, the next one gathers.

Concurrent appends share one transaction, so a commit's price (an fsync) is paid per batch. There is no timer: a lone
delivery goes at once, and the busier the server, the larger the batches.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from eventstore.errors import RefusedError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.batch import (
    EXPIRY_CHECKS,
    OnOutcome,
    Pending,
    PendingQueue,
    outcome_of,
    report,
    report_all,
    too_late,
)
from eventstore.log.events import Appended, NewEvent
from eventstore.log.known_head import KnownHead
from eventstore.log.writer import Doubt, LogWriter, SeenHead
from eventstore.postgres.failures import (
    describe,
    is_lost_race,
    is_outage,
    is_refused_value,
    refusal_of,
)
from eventstore.tasks import Backoff, raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Connection, Record

logger = structlog.get_logger()

# Seconds between tries to reach a Postgres that is away: the first, doubled up to the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

# Seconds between two looks whether the database takes appends again, after it refused them all.
REFUSED_PAUSE = 1.0

# So many deliveries that arrive at once are a burst.
BURST = 16

# How long a cancelled task may take to end.
CANCEL_SECONDS = 0.5


class Appender:
    """The one writer of a process: a bounded queue in front of one connection.

    `connect` opens that connection, and again after it is lost. `on_append` is called with the newest position after
    each commit.
    """

    def __init__(
        self,
        connect: "Callable[[], Awaitable[Connection[Record]]]",
        limits: Limits,
        on_append: Callable[[int], None],
    ) -> None:
        self._writer = LogWriter(connect, on_append)
        self._limits = limits
        self._queue = PendingQueue(limits)
        # Batches that were handed to another appender, which is gone.
        self._unsettled: deque[tuple[list[Pending], Doubt]] = deque()
        self._wake = asyncio.Event()
        self._in_flight: list[Pending] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        # Why the database refuses all appends, if it does.
        self._refusal: str | None = None
        # What the last try to append failed of, if that is an outage.
        self._outage: str | None = None
        self.commits = self._writer.commits

    async def start(self, known: KnownHead | None = None) -> None:
        """Connect, and begin to commit what is appended, to a log that has reached `known`.

        Raises what `connect` does.
        """
        await self._writer.start(known)
        self._tasks = [
            asyncio.create_task(self._run(), name="appender"),
            asyncio.create_task(self._expire(), name="appender-expire"),
        ]

    async def stop(self) -> None:
        """Drain the queue, for at most `drain_seconds`; the outcome of what is left is UnavailableError."""
        self._stopping = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=self._limits.drain_seconds)
        # First the connection: a task that waits for a server that hangs may not react to its cancellation.
        self._writer.disconnect()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
        report_all([*self._waiting()], UnavailableError(problem="the server is stopping"))
        self._queue.take_all()
        self._unsettled.clear()

    @property
    def refusal(self) -> str | None:
        """Why the database takes no appends at all, and what to do; None if it does."""
        return self._refusal

    @property
    def outage(self) -> str | None:
        """Why nothing can be appended at the moment, though it is tried again and again; None if nothing is known."""
        return self._outage

    @property
    def queued(self) -> tuple[int, int]:
        """How many deliveries are queued, and their bytes."""
        return len(self._queue), self._queue.size

    @property
    def writer(self) -> str:
        """The name of the sessions that append."""
        return self._writer.name

    @property
    def known_head(self) -> int:
        """A position that the log has reached."""
        return self._writer.known_head

    @property
    def seen_head(self) -> SeenHead:
        """The same, for another appender to note."""
        return self._writer.seen_head

    def note_head(self, seen: SeenHead) -> None:
        """Have no append accepted by a log that ends before what another appender has seen."""
        self._writer.note_head(seen)

    async def append(self, event: NewEvent) -> Appended:
        """Append one event; returns after COMMIT.

        Raises QueueFullError or UnavailableError (nothing was acknowledged: send it again) and RefusedError (the
        database will never take this one). A caller that is cancelled does not take its event back.
        """
        return await outcome_of(lambda on_outcome: self.submit(event, on_outcome))

    def submit(self, event: NewEvent, on_outcome: OnOutcome, deadline: float | None = None) -> None:
        """Append one event, as `append` does, and call `on_outcome` with the outcome: that costs less than a task.

        `deadline` is by `time.monotonic`; `append_seconds` from now if None. Raises QueueFullError or UnavailableError,
        as `append` does. `on_outcome` must not raise; it may submit.
        """
        if self._stopping:
            raise UnavailableError(problem="the server is stopping")
        if self._refusal is not None:
            raise UnavailableError(problem=self._refusal)
        self._queue.add(event, on_outcome, deadline)
        self._wake.set()

    def take_over(self, batch: list[Pending], doubt: Doubt | None) -> None:
        """Append a batch that another appender took, which is gone; with a `doubt`, it may be on record already."""
        if doubt is None:
            self._queue.take_over(batch)
        else:
            self._unsettled.append((batch, doubt))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            if self._unsettled:
                self._in_flight, doubt = self._unsettled.popleft()
                await self._commit(self._in_flight, doubt)
                self._in_flight = []
                continue
            most = self._limits.batch_deliveries
            while not self._queue and not self._unsettled:
                if self._stopping:
                    return
                self._wake.clear()
                if self._refusal is not None:
                    await self._look_again()
                    continue
                await self._wake.wait()
                # One iteration of the loop, so that requests that became ready together share the batch.
                await asyncio.sleep(0)
                # Half of a burst: senders that are answered all at once send again all at once, and this process would
                # idle while Postgres works, and the other way round. From here on, one half arrives while the other
                # commits.
                if len(self._queue) >= BURST:
                    most = min(most, len(self._queue) // 2)
            if self._unsettled:
                continue
            self._in_flight = self._queue.take(most)
            await self._commit(self._in_flight)
            self._in_flight = []

    async def _expire(self) -> None:
        """Report to those who have waited too long. What is still in the queue then is dropped."""
        while True:
            await asyncio.sleep(self._limits.append_seconds / EXPIRY_CHECKS)
            now = monotonic()
            # A copy: whoever is told may submit the next event at once.
            for pending in [*self._waiting()]:
                if pending.deadline <= now:
                    report(pending, too_late(self._limits))

    def _waiting(self) -> Iterator[Pending]:
        yield from self._in_flight
        for batch, _ in self._unsettled:
            yield from batch
        yield from self._queue

    async def _commit(self, batch: list[Pending], doubt: Doubt | None = None) -> None:
        """Append `batch`, however often Postgres goes away. With a `doubt`, it may be on record already."""
        backoff: Backoff | None = None
        while batch:
            try:
                if doubt is not None:
                    batch = await self._writer.recover(batch, doubt)
                    doubt = None
                if batch:
                    await self._writer.append(batch)
                self._outage = None
            except Exception as error:
                raise_if_cancelled()
                if is_refused_value(error):
                    await self._bisect(batch, doubt, error)
                elif refusal := refusal_of(error):
                    self._refuse(batch, refusal)
                elif is_lost_race(error):
                    continue
                elif is_outage(error):
                    if backoff is None:
                        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
                        logger.warning(
                            "postgres_lost",
                            message="Postgres was lost while appending; trying again.",
                            error=describe(error),
                        )
                    # Sent or not, committed or not: from now on, look before appending.
                    doubt = doubt or self._writer.doubt
                    self._outage = f"the last append failed: {describe(error)}"
                    self._writer.disconnect()
                    await asyncio.sleep(backoff.next_pause())
                    continue
                else:
                    logger.error(
                        "append_failed", message="A batch could not be appended.", exc_info=error
                    )
                    self._writer.disconnect()
                    report_all(batch, UnavailableError(problem=describe(error)))
            return

    def _refuse(self, batch: list[Pending], refusal: str) -> None:
        """The database takes no appends at all, until somebody sees to it: tell all who wait, and who come."""
        if refusal != self._refusal:
            logger.critical(
                "appends_refused",
                message="Every delivery is refused until somebody sees to it.",
                error=refusal,
            )
        self._refusal = refusal
        report_all([*batch, *self._queue.take_all()], UnavailableError(problem=refusal))

    async def _look_again(self) -> None:
        """After a while, see whether the database takes appends again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_PAUSE):
                await self._wake.wait()
        if self._stopping:
            return
        try:
            await self._writer.try_nothing()
        except Exception as error:
            raise_if_cancelled()
            if refusal := refusal_of(error):
                self._refuse([], refusal)
                return
            if not is_outage(error):
                logger.error(
                    "append_failed", message="A batch could not be appended.", exc_info=error
                )
            self._writer.disconnect()
            return
        self._refusal = None
        logger.info("appends_resumed", message="Deliveries are taken again.", head=self.known_head)

    async def _bisect(self, batch: list[Pending], doubt: Doubt | None, error: Exception) -> None:
        """The database refuses an event of `batch`: find the one at fault, and append the others in order."""
        if len(batch) == 1:
            logger.warning(
                "delivery_refused",
                message="Postgres refused a delivery because of its content.",
                stream=batch[0].event.stream,
                error=describe(error),
            )
            report(batch[0], RefusedError(problem=describe(error)))
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle], doubt)
        await self._commit(batch[middle:], doubt)
