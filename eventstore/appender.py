"""Group commit: while one batch commits, the next one gathers.

Concurrent appends share one transaction, so a commit's price (an fsync) is paid per batch. There is no timer: a lone
delivery goes at once, and the busier the server, the larger the batches.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import structlog

from eventstore.errors import (
    LogCorruptedError,
    LoopledgerError,
    QueueFullError,
    RefusedError,
    UnavailableError,
    describe,
    is_outage,
    is_poison,
)
from eventstore.events import Appended, NewEvent
from eventstore.limits import Limits
from eventstore.queries import QUERIES

if TYPE_CHECKING:
    from uuid import UUID

    from asyncpg import Connection, Record

logger = structlog.get_logger()

# Seconds between tries to reach a Postgres that is away: the first, doubled up to the last.
FIRST_PAUSE = 0.05
LAST_PAUSE = 1.0


class _Waiting(NamedTuple):
    event: NewEvent
    size: int
    answer: "asyncio.Future[Appended]"


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
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection[Record] | None = None
        # Every event of ours whose outcome is unknown lies after this position.
        self._known_head = 0

    async def start(self) -> None:
        """Begin to take batches."""
        connection = await self._connected()
        self._known_head = await connection.fetchval(QUERIES["read_head"])
        self._task = asyncio.create_task(self._run(), name="appender")

    async def stop(self) -> None:
        """Drain the queue, for at most `drain_seconds`; what is left is told that it was not acknowledged."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._limits.drain_seconds)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for waiting in self._queue:
            _answer(waiting, UnavailableError(problem="the server is stopping"))
        self._queue.clear()
        await self._disconnect()

    async def append(self, event: NewEvent) -> Appended:
        """Append one event; answers after COMMIT.

        Raises QueueFullError or UnavailableError (nothing was acknowledged: send it again) and RefusedError (the
        database will never take this one). A caller that is cancelled does not take its event back.
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
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(event, size, answer))
        self._queued_bytes += size
        self._wake.set()
        done, _ = await asyncio.wait([answer], timeout=limits.append_seconds)
        if not done:
            # From here on the event is dropped, unless its batch is already with Postgres.
            answer.cancel()
            raise UnavailableError(
                problem=f"no commit within {limits.append_seconds:g} s; Postgres may be away"
            )
        return answer.result()

    async def _run(self) -> None:
        while True:
            while not self._queue:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
            # One turn of the loop, so that requests that became ready together share the batch.
            await asyncio.sleep(0)
            if batch := self._take():
                try:
                    await self._commit(batch, unsure=False)
                except asyncio.CancelledError:
                    for waiting in batch:
                        _answer(waiting, UnavailableError(problem="the server is stopping"))
                    raise

    def _take(self) -> list[_Waiting]:
        """Take what is waiting, up to the limits of one batch; who gave up waiting is left out."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < self._limits.batch_deliveries:
            waiting = self._queue[0]
            if batch and size + waiting.size > self._limits.batch_bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= waiting.size
            if not waiting.answer.done():
                batch.append(waiting)
                size += waiting.size
        return batch

    async def _commit(self, batch: list[_Waiting], *, unsure: bool) -> None:
        """Append `batch`, however often Postgres goes away. `unsure`: part of it may be on record already."""
        pause = FIRST_PAUSE
        while batch:
            try:
                connection = await self._connected()
                if unsure:
                    batch = await self._settle(connection, batch)
                else:
                    await self._append(connection, batch)
            except Exception as error:
                if is_poison(error):
                    await self._bisect(batch, error, unsure=unsure)
                elif is_outage(error):
                    if pause == FIRST_PAUSE:
                        logger.warning("lost Postgres while appending", error=describe(error))
                    # Sent or not, committed or not: from now on, look before appending.
                    unsure = True
                    await self._disconnect()
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LAST_PAUSE)
                    continue
                else:
                    logger.error("could not append", exc_info=error)
                    await self._disconnect()
                    _answer_all(batch, UnavailableError(problem=type(error).__name__))
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
        """Find out what became of `batch` and append what is missing; gives back what is still to do.

        Under the head lock nobody appends, so what is not found now was never committed.
        """
        async with connection.transaction():
            head = await connection.fetchval(QUERIES["lock_head"])
            rows = await connection.fetch(
                QUERIES["find_appended"], [w.event.event_id for w in batch], self._known_head
            )
        found: dict[UUID, Appended] = {
            row["event_id"]: Appended(row["position"], row["recorded_at"]) for row in rows
        }
        missing: list[_Waiting] = []
        for waiting in batch:
            if appended := found.get(waiting.event.event_id):
                _answer(waiting, appended)
            elif not waiting.answer.done():
                missing.append(waiting)
        logger.info(
            "settled a batch of unknown outcome", on_record=len(found), missing=len(missing)
        )
        # Nothing of the rest is on record up to `head`; a later doubt begins there.
        self._advance(head)
        if missing:
            await self._append(connection, missing)
        return []

    async def _bisect(self, batch: list[_Waiting], error: Exception, *, unsure: bool) -> None:
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
        await self._commit(batch[:middle], unsure=unsure)
        await self._commit(batch[middle:], unsure=unsure)

    def _advance(self, head: int) -> None:
        self._known_head = head
        self._on_append(head)

    async def _connected(self) -> "Connection[Record]":
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()


def _columns(batch: Sequence[_Waiting]) -> list[list[object]]:
    """Turn the batch on its side: the arrays that append_events() takes."""
    return [
        list(column)
        for column in zip(
            *(
                (
                    event.event_id,
                    event.provider,
                    event.topic,
                    event.merchant_id,
                    event.program_id,
                    event.stream,
                    event.received_at,
                    event.headers,
                    event.body,
                )
                for event, _, _ in batch
            ),
            strict=True,
        )
    ]


def _answer(waiting: _Waiting, outcome: Appended | LoopledgerError) -> None:
    if waiting.answer.done():
        return
    if isinstance(outcome, Appended):
        waiting.answer.set_result(outcome)
    else:
        waiting.answer.set_exception(outcome)
        # Whoever waited may be gone; then nobody fetches this, and asyncio would complain.
        waiting.answer.exception()


def _answer_all(batch: Sequence[_Waiting], outcome: LoopledgerError) -> None:
    for waiting in batch:
        _answer(waiting, outcome)
