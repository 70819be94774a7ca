"""Group commit: while one batch commits, the next one gathers.

Concurrent appends share one transaction, so a commit's price (an fsync) is paid per batch. There is no timer: a lone
delivery goes at once, and the busier the server, the larger the batches.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import asyncpg
import msgspec
import structlog

from eventstore.errors import (
    LogCorruptedError,
    LoopledgerError,
    QueueFullError,
    RefusedError,
    UnavailableError,
)
from eventstore.limits import Limits
from eventstore.log.events import Appended, NewEvent
from eventstore.log.queries import QUERIES
from eventstore.postgres.failures import describe, is_outage, is_refused_value
from eventstore.tasks import Backoff, raise_if_cancelled

if TYPE_CHECKING:
    from uuid import UUID

    from asyncpg import Connection, Record

logger = structlog.get_logger()

# Seconds between tries to reach a Postgres that is away: the first, doubled up to the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

# How often, within the time that an append may take, it is looked whether that time is up.
LOOKS = 20

# The record separator and the unit separator of ASCII: between the names of a column, and for the one that is null.
SEPARATOR = "\x1e"
NULL = "\x1f"

# So many deliveries at once are a crowd.
CROWD = 16

# How long a cancelled task may take to end.
CANCEL_SECONDS = 0.5

# Is told what became of an event: where it went, or why it did not. Gives back whether anybody heard it.
OnOutcome: TypeAlias = Callable[[Appended | LoopledgerError], bool]


class _Waiting(msgspec.Struct):
    event: NewEvent
    size: int
    deadline: float
    on_outcome: OnOutcome
    answered: bool = False


class _Session(NamedTuple):
    """A connection, and how Postgres knows it."""

    connection: "Connection[Record]"
    pid: int
    started: datetime


class Appender:
    """The one writer of a process: a bounded queue in front of one connection.

    `connect` opens that connection, and again after it is lost. `on_append` is told the newest position after each
    commit.
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
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._in_flight: list[_Waiting] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._session: _Session | None = None
        # The session in which something of unknown outcome was sent; it may live on behind a lost connection.
        self._doubtful: _Session | None = None
        # Every event of ours whose outcome is unknown lies after this position.
        self._known_head = 0

    async def start(self) -> None:
        """Begin to take batches."""
        connection = await self._connected()
        self._known_head = await connection.fetchval(QUERIES["read_head"])
        self._tasks = [
            asyncio.create_task(self._run(), name="appender"),
            asyncio.create_task(self._expire(), name="appender-expire"),
        ]

    async def stop(self) -> None:
        """Drain the queue, for at most `drain_seconds`; what is left is told that it was not acknowledged."""
        self._stopping = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=self._limits.drain_seconds)
        # First the connection: a task that waits for a server that hangs may not heed its cancellation.
        self._disconnect()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)
        _answer_all(
            [*self._in_flight, *self._queue], UnavailableError(problem="the server is stopping")
        )
        self._queue.clear()

    async def append(self, event: NewEvent) -> Appended:
        """Append one event; answers after COMMIT.

        Raises QueueFullError or UnavailableError (nothing was acknowledged: send it again) and RefusedError (the
        database will never take this one). A caller that is cancelled does not take its event back.
        """
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def on_outcome(outcome: Appended | LoopledgerError) -> bool:
            if answer.done():
                # Who was cancelled was told nothing, and may count on the event.
                return False
            if isinstance(outcome, Appended):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)
                # Whoever waited may be gone; then nobody fetches this, and asyncio would complain.
                answer.exception()
            return True

        self.submit(event, on_outcome)
        return await answer

    def submit(self, event: NewEvent, on_outcome: OnOutcome) -> None:
        """Append one event, as `append` does; `on_outcome` is called with what came of it: that costs less than a task.

        Raises QueueFullError or UnavailableError, as `append` does. `on_outcome` must not raise; it may submit.
        """
        size = len(event.headers) + len(event.body)
        limits = self._limits
        if self._stopping:
            raise UnavailableError(problem="the server is stopping")
        if (
            len(self._queue) >= limits.queue_deliveries
            or self._queued_bytes + size > limits.queue_bytes
        ):
            raise QueueFullError(deliveries=len(self._queue), size=self._queued_bytes)
        deadline = asyncio.get_running_loop().time() + limits.append_seconds
        self._queue.append(_Waiting(event, size, deadline, on_outcome))
        self._queued_bytes += size
        self._wake.set()

    async def _run(self) -> None:
        while True:
            most = self._limits.batch_deliveries
            while not self._queue:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                # One turn of the loop, so that requests that became ready together share the batch.
                await asyncio.sleep(0)
                # Half of a crowd that comes all at once, after an answer to all at once: else this process would rest
                # while Postgres works and the other way round. From here on, one half comes while the other commits.
                if len(self._queue) >= CROWD:
                    most = min(most, len(self._queue) // 2)
            self._in_flight = self._take(most)
            await self._commit(self._in_flight, unsure=False)
            self._in_flight = []

    async def _expire(self) -> None:
        """Tell who has waited too long. What is still in the queue then is dropped."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.append_seconds / LOOKS)
            now = loop.time()
            # A copy: who is told may submit the next event at once.
            for waiting in [*self._in_flight, *self._queue]:
                if waiting.deadline > now:
                    break
                _answer(
                    waiting,
                    UnavailableError(
                        problem=f"no commit within {self._limits.append_seconds:g} s;"
                        " Postgres may be away"
                    ),
                )

    def _take(self, most: int) -> list[_Waiting]:
        """Take what is waiting, at most so many and so much; who was told to come again is left out."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < most:
            waiting = self._queue[0]
            if batch and size + waiting.size > self._limits.batch_bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= waiting.size
            if not waiting.answered:
                batch.append(waiting)
                size += waiting.size
        return batch

    async def _commit(self, batch: list[_Waiting], *, unsure: bool) -> None:
        """Append `batch`, however often Postgres goes away. `unsure`: part of it may be on record already."""
        backoff: Backoff | None = None
        while batch:
            try:
                connection = await self._connected()
                if unsure:
                    batch = await self._settle(connection, batch)
                    unsure = False
                if batch:
                    await self._append(connection, batch)
            except Exception as error:
                raise_if_cancelled()
                if is_refused_value(error):
                    await self._bisect(batch, error)
                elif is_outage(error):
                    if backoff is None:
                        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
                        logger.warning("lost Postgres while appending", error=describe(error))
                    # Sent or not, committed or not: from now on, look before appending.
                    unsure = True
                    self._doubtful = self._doubtful or self._session
                    self._disconnect()
                    await asyncio.sleep(backoff.next_pause())
                    continue
                else:
                    logger.error("could not append", exc_info=error)
                    self._disconnect()
                    _answer_all(batch, UnavailableError(problem=describe(error)))
            return

    async def _append(self, connection: "Connection[Record]", batch: list[_Waiting]) -> None:
        row = await connection.fetchrow(QUERIES["append"], *_columns(batch))
        if row is None:
            raise LogCorruptedError(problem="no head row")
        base, recorded_at = row
        if base < self._known_head:
            raise LogCorruptedError(
                problem=f"position {base + 1} was given out after {self._known_head}"
            )
        for position, waiting in enumerate(batch, base + 1):
            _answer(waiting, Appended(position, recorded_at))
        self._advance(base + len(batch))

    async def _settle(
        self, connection: "Connection[Record]", batch: list[_Waiting]
    ) -> list[_Waiting]:
        """Find out what became of `batch`; gives back what was never committed and is still wanted.

        First the session in doubt is ended: behind a lost connection it may still stand in the queue for the head's
        lock. After that nobody can commit any of the batch, and under the lock nobody is half-way through.
        """
        if self._doubtful is not None:
            gone = await connection.fetchval(
                QUERIES["end_session"], self._doubtful.pid, self._doubtful.started
            )
            if gone is False:
                problem = "a session in doubt does not end"
                raise TimeoutError(problem)
        async with connection.transaction():
            head = await connection.fetchval(QUERIES["lock_head"])
            rows = await connection.fetch(
                QUERIES["find_appended"],
                [w.event.event_id for w in batch],
                self._known_head,
                [w.event.stream for w in batch],
            )
        self._doubtful = None
        found: dict[UUID, Appended] = {
            row["event_id"]: Appended(row["position"], row["recorded_at"]) for row in rows
        }
        missing: list[_Waiting] = []
        for waiting in batch:
            if appended := found.get(waiting.event.event_id):
                _answer(waiting, appended)
            elif not waiting.answered:
                missing.append(waiting)
        logger.info(
            "settled a batch of unknown outcome", on_record=len(found), missing=len(missing)
        )
        # Nothing of the rest is on record up to `head`; a later doubt begins there.
        self._advance(head)
        return missing

    async def _bisect(self, batch: list[_Waiting], error: Exception) -> None:
        """The database refuses something in `batch`: find the one at fault, keep the others, in order."""
        if len(batch) == 1:
            logger.warning(
                "the database refused a delivery",
                stream=batch[0].event.stream,
                error=describe(error),
            )
            _answer(batch[0], RefusedError(problem=describe(error)))
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle], unsure=False)
        await self._commit(batch[middle:], unsure=False)

    def _advance(self, head: int) -> None:
        self._known_head = head
        self._on_append(head)

    async def _connected(self) -> "Connection[Record]":
        if self._session is None or self._session.connection.is_closed():
            connection = await self._connect()
            try:
                await connection.execute(QUERIES["plan_once"])
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


def _columns(batch: Sequence[_Waiting]) -> tuple[object, ...]:
    """Turn the batch on its side: what the query `append` takes.

    Names and numbers go as one text a column, since a driver encodes a long text in the time of two short ones: it
    halves what an event costs here. A separator cannot occur in them: names are printable text.
    """
    events = [waiting.event for waiting in batch]
    return (
        [event.event_id for event in events],
        SEPARATOR.join([event.provider for event in events]),
        SEPARATOR.join([event.topic for event in events]),
        SEPARATOR.join([event.merchant_id for event in events]),
        SEPARATOR.join([event.program_id or NULL for event in events]),
        SEPARATOR.join([event.stream for event in events]),
        [event.received_at for event in events],
        [event.headers for event in events],
        [event.body for event in events],
    )


def _answer(waiting: _Waiting, outcome: Appended | LoopledgerError) -> None:
    if not waiting.answered:
        waiting.answered = waiting.on_outcome(outcome)


def _answer_all(batch: Sequence[_Waiting], outcome: LoopledgerError) -> None:
    for waiting in batch:
        _answer(waiting, outcome)
