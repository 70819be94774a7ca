"""Group commit: while one batch commits, the next one gathers.

Concurrent appends share one transaction, so a commit's price (an fsync) is paid per batch. There is no timer: a lone
delivery goes at once, and the busier the server, the larger the batches.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import structlog

from eventstore.errors import (
    LoopledgerError,
    QueueFullError,
    RefusedError,
    UnavailableError,
)
from eventstore.limits import Limits
from eventstore.log.batch import OnOutcome, Pending, columns_of, report, report_all
from eventstore.log.events import Appended, NewEvent
from eventstore.log.queries import QUERIES
from eventstore.postgres.failures import (
    describe,
    is_lost_race,
    is_outage,
    is_refused_value,
    refusal_of,
)
from eventstore.tasks import Backoff, raise_if_cancelled

if TYPE_CHECKING:
    from uuid import UUID

    from asyncpg import Connection, Record

logger = structlog.get_logger()

# Seconds between tries to reach a Postgres that is away: the first, doubled up to the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

# Seconds between two looks whether the database takes appends again, after it refused them all.
REFUSED_PAUSE = 1.0

# What is told of a delivery that is on record in a database that is not accepted.
IN_DOUBT = "the database has changed its timeline, or is behind; see the server's log"

# How often, within the time that an append may take, the queue is searched for those whose time is up.
EXPIRY_CHECKS = 20

# So many deliveries that arrive at once are a burst.
BURST = 16

# How long a cancelled task may take to end.
CANCEL_SECONDS = 0.5


class _Session(NamedTuple):
    """A connection, and what identifies its session in Postgres."""

    connection: "Connection[Record]"
    pid: int
    started: datetime


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
        self._connect = connect
        self._limits = limits
        self._on_append = on_append
        self._queue: deque[Pending] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._in_flight: list[Pending] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._session: _Session | None = None
        # The session that was lost while a batch was sent, whose outcome is therefore unknown. It may live on.
        self._lost_session: _Session | None = None
        # Every event of ours whose outcome is unknown lies after this position.
        self._known_head = 0
        # How many times a timeline was accepted, as far as we know.
        self._acceptance = 0
        # Why the database refuses all appends, if it does.
        self._refusal: str | None = None
        # What the last try to append failed of, if that is an outage.
        self._outage: str | None = None

    async def start(self) -> None:
        """Connect, and begin to commit what is appended. Raises what `connect` does."""
        connection = await self._connection()
        row = await connection.fetchrow(QUERIES["watch_head"])
        if row is not None:
            self._known_head, self._acceptance = row
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
        self._disconnect()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
        report_all(
            [*self._in_flight, *self._queue], UnavailableError(problem="the server is stopping")
        )
        self._queue.clear()

    @property
    def refusal(self) -> str | None:
        """Why the database takes no appends at all, and what to do; None if it does."""
        return self._refusal

    @property
    def outage(self) -> str | None:
        """Why nothing can be appended at the moment, though it is tried again and again; None if nothing is known."""
        return self._outage

    @property
    def known_head(self) -> int:
        """A position that the log has reached."""
        return self._known_head

    async def append(self, event: NewEvent) -> Appended:
        """Append one event; returns after COMMIT.

        Raises QueueFullError or UnavailableError (nothing was acknowledged: send it again) and RefusedError (the
        database will never take this one). A caller that is cancelled does not take its event back.
        """
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def on_outcome(outcome: Appended | LoopledgerError) -> bool:
            if answer.done():
                # A caller that was cancelled was told nothing, and may count on the event.
                return False
            if isinstance(outcome, Appended):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)
                # The caller may be gone; then nobody fetches this, and asyncio would complain.
                answer.exception()
            return True

        self.submit(event, on_outcome)
        return await answer

    def submit(self, event: NewEvent, on_outcome: OnOutcome) -> None:
        """Append one event, as `append` does, and call `on_outcome` with the outcome: that costs less than a task.

        Raises QueueFullError or UnavailableError, as `append` does. `on_outcome` must not raise; it may submit.
        """
        size = len(event.headers) + len(event.body)
        limits = self._limits
        if self._stopping:
            raise UnavailableError(problem="the server is stopping")
        if self._refusal is not None:
            raise UnavailableError(problem=self._refusal)
        if (
            len(self._queue) >= limits.queue_deliveries
            or self._queued_bytes + size > limits.queue_bytes
        ):
            raise QueueFullError(deliveries=len(self._queue), size=self._queued_bytes)
        deadline = asyncio.get_running_loop().time() + limits.append_seconds
        self._queue.append(Pending(event, size, deadline, on_outcome))
        self._queued_bytes += size
        self._wake.set()

    async def _run(self) -> None:
        while True:
            most = self._limits.batch_deliveries
            while not self._queue:
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
            self._in_flight = self._take_batch(most)
            await self._commit(self._in_flight)
            self._in_flight = []

    async def _expire(self) -> None:
        """Report to those who have waited too long. What is still in the queue then is dropped."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.append_seconds / EXPIRY_CHECKS)
            now = loop.time()
            # A copy: whoever is told may submit the next event at once.
            for pending in [*self._in_flight, *self._queue]:
                if pending.deadline > now:
                    break
                report(
                    pending,
                    UnavailableError(
                        problem=f"no commit within {self._limits.append_seconds:g} s;"
                        " Postgres may be away"
                    ),
                )

    def _take_batch(self, most: int) -> list[Pending]:
        """Take what is queued, at most `most` and `batch_bytes`; what has expired is left out."""
        batch: list[Pending] = []
        size = 0
        while self._queue and len(batch) < most:
            pending = self._queue[0]
            if batch and size + pending.size > self._limits.batch_bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= pending.size
            if not pending.reported:
                batch.append(pending)
                size += pending.size
        return batch

    async def _commit(self, batch: list[Pending]) -> None:
        """Append `batch`, however often Postgres goes away."""
        # Whether `batch` may be on record already.
        outcome_unknown = False
        backoff: Backoff | None = None
        while batch:
            try:
                connection = await self._connection()
                if outcome_unknown:
                    batch = await self._recover(connection, batch)
                    outcome_unknown = False
                if batch:
                    await self._append(connection, batch)
                self._outage = None
            except Exception as error:
                raise_if_cancelled()
                if is_refused_value(error):
                    await self._bisect(batch, error)
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
                    outcome_unknown = True
                    self._outage = f"the last append failed: {describe(error)}"
                    self._lost_session = self._lost_session or self._session
                    self._disconnect()
                    await asyncio.sleep(backoff.next_pause())
                    continue
                else:
                    logger.error(
                        "append_failed", message="A batch could not be appended.", exc_info=error
                    )
                    self._disconnect()
                    report_all(batch, UnavailableError(problem=describe(error)))
            return

    async def _append(self, connection: "Connection[Record]", batch: list[Pending]) -> None:
        ((base, recorded_at, acceptance),) = await connection.fetch(
            QUERIES["append"], self._known_head, *columns_of(batch)
        )
        if acceptance != self._acceptance:
            await self._note_acceptance(connection)
        for position, pending in enumerate(batch, base + 1):
            report(pending, Appended(position, recorded_at))
        self._advance(base + len(batch))

    def _refuse(self, batch: list[Pending], refusal: str) -> None:
        """The database takes no appends at all, until somebody sees to it: tell all who wait, and who come."""
        if refusal != self._refusal:
            logger.critical(
                "appends_refused",
                message="Every delivery is refused until somebody sees to it.",
                error=refusal,
            )
        self._refusal = refusal
        queued = [*self._queue]
        self._queue.clear()
        self._queued_bytes = 0
        report_all([*batch, *queued], UnavailableError(problem=refusal))

    async def _look_again(self) -> None:
        """After a while, see whether the database takes appends again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_PAUSE):
                await self._wake.wait()
        if self._stopping:
            return
        try:
            connection = await self._connection()
            await self._note_acceptance(connection)
            await connection.fetch(QUERIES["append"], self._known_head, *columns_of([]))
        except Exception as error:
            raise_if_cancelled()
            if refusal := refusal_of(error):
                self._refuse([], refusal)
                return
            if not is_outage(error):
                logger.error(
                    "append_failed", message="A batch could not be appended.", exc_info=error
                )
            self._disconnect()
            return
        self._refusal = None
        logger.info("appends_resumed", message="Deliveries are taken again.", head=self._known_head)

    async def _note_acceptance(self, connection: "Connection[Record]") -> None:
        """See what an operator has accepted; name what is lost by it, as far as this process knows."""
        rows = await connection.fetch(QUERIES["list_acceptances"], self._acceptance)
        for acceptance, timeline, position in rows:
            logger.warning(
                "timeline_accepted",
                message="An operator accepted that the log goes on from here.",
                timeline=timeline,
                head=position,
            )
            if position < self._known_head:
                logger.critical(
                    "events_lost",
                    message="Events that were on record are not in the accepted log; others get their positions.",
                    first=position + 1,
                    last=self._known_head,
                )
            self._acceptance = acceptance
            self._known_head = min(self._known_head, position)

    async def _recover(
        self, connection: "Connection[Record]", batch: list[Pending]
    ) -> list[Pending]:
        """Find out what became of a batch of unknown outcome; returns what was never committed and is still wanted.

        First the lost session is ended: it may still wait for the head's lock. After that nobody can commit any of the
        batch, and under the lock no commit is half-way through.
        """
        if self._lost_session is not None:
            gone = await connection.fetchval(
                QUERIES["end_session"], self._lost_session.pid, self._lost_session.started
            )
            if gone is False:
                problem = "the lost session does not end"
                raise TimeoutError(problem)
        async with connection.transaction():
            ((head, timeline, acceptance, now),) = await connection.fetch(QUERIES["lock_head"])
            rows = await connection.fetch(
                QUERIES["find_appended"],
                [pending.event.event_id for pending in batch],
                self._known_head,
                [pending.event.stream for pending in batch],
            )
        self._lost_session = None
        found: dict[UUID, Appended] = {
            row["event_id"]: Appended(row["position"], row["recorded_at"]) for row in rows
        }
        if refused := timeline != now or head < self._known_head:
            # What is on record here may not be what was acknowledged there; an append tells what is the matter.
            self._disown(found)
        missing: list[Pending] = []
        for pending in batch:
            if appended := found.get(pending.event.event_id):
                report(pending, UnavailableError(problem=IN_DOUBT) if refused else appended)
            elif not pending.reported:
                missing.append(pending)
        if refused:
            return missing
        logger.info(
            "batch_recovered",
            message="A batch of unknown outcome was looked up in the log; what was missing is appended now.",
            on_record=len(found),
            missing=len(missing),
        )
        if acceptance != self._acceptance:
            await self._note_acceptance(connection)
        # None of the rest is on record up to `head`: a later recovery need only look beyond.
        self._advance(head)
        return missing

    def _disown(self, found: "dict[UUID, Appended]") -> None:
        """Log which events are on record though their senders are told otherwise."""
        if found:
            logger.critical(
                "batch_not_acknowledged",
                message="Events are on record whose senders are told to send them again, since the database that holds"
                " them is not accepted.",
                positions=sorted(one.position for one in found.values()),
            )

    async def _bisect(self, batch: list[Pending], error: Exception) -> None:
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
        await self._commit(batch[:middle])
        await self._commit(batch[middle:])

    def _advance(self, head: int) -> None:
        self._known_head = head
        self._on_append(head)

    async def _connection(self) -> "Connection[Record]":
        if self._session is None or self._session.connection.is_closed():
            connection = await self._connect()
            try:
                await connection.execute(QUERIES["set_up_for_appending"])
                ((pid, started),) = await connection.fetch(QUERIES["this_session"])
            except BaseException:
                connection.terminate()
                raise
            self._session = _Session(connection, pid, started)
        return self._session.connection

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                session.connection.terminate()
