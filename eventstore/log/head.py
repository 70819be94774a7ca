"""The head of the log: how far it reaches, and who is told when it reaches further.

A process knows at once of what it appended itself. Others are woken by one coalesced NOTIFY: it takes a lock over the
whole cluster at commit, so it never rides in an append's transaction. Nothing depends on it: a process that hears
nothing finds out at its next poll.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog

from eventstore.errors import LogCorruptedError
from eventstore.log.queries import QUERIES
from eventstore.postgres.database import closed_event, commit_without_waiting, run_connected
from eventstore.postgres.failures import is_outage
from eventstore.tasks import cancel_all, raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Database, Session

logger = structlog.get_logger()

CHANNEL = "loopledger_head"

# Seconds between two notifications: however busy the log, others are woken this often and no more.
REST_SECONDS = 0.015

# Seconds between two looks at whether the clock is behind the log.
CLOCK_SECONDS = 10.0


async def read_head(source: "Database | Session") -> int:
    """The newest position, as the database has it."""
    head: int = await source.fetchval(QUERIES["read_head"])
    return head


class Head:
    """The newest position that this process knows of: `position`. It goes back only where an operator accepted a loss.

    It moves with this process's own appends at once, with those of others when they notify, at the latest at the next
    poll.
    """

    def __init__(self, database: "Database", limits: "Limits") -> None:
        self.position = 0
        self._acceptance = 0
        self._database = database
        self._poll_seconds = limits.poll_seconds
        self._clock_ahead_seconds = limits.clock_ahead_seconds
        self._clock_is_ahead = False
        self._next_clock_check = 0.0
        self._moved = asyncio.Event()
        # Set when there is something to tell other processes, and when they have told us something.
        self._to_notify = asyncio.Event()
        self._notified = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._follows = False
        # How many want it to follow others for a while, and the tasks that do.
        self._followers = 0
        self._following: list[asyncio.Task[None]] = []

    async def start(self, *, notify: bool = True, follow: bool = True) -> None:
        """Read the head; then `notify` other processes of our appends, and `follow` those of others."""
        await self.refresh()
        self._follows = follow
        if notify:
            work = run_connected(self._database.connect, self._notify)
            self._tasks.append(asyncio.create_task(work, name="notify"))
        if follow:
            self._tasks += self._follow()

    async def stop(self) -> None:
        """Stop looking out."""
        await cancel_all(*self._tasks, *self._following)

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follow the appends of others while the block runs, also where this process does not do so all the time."""
        self._followers += 1
        if not self._follows and not self._following:
            self._following = self._follow()
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                following, self._following = self._following, []
                await cancel_all(*following)

    def _follow(self) -> "list[asyncio.Task[None]]":
        listening = run_connected(self._database.connect, self._listen)
        return [
            asyncio.create_task(listening, name="listen"),
            asyncio.create_task(self._poll(), name="poll"),
        ]

    def on_append(self, position: int) -> None:
        """Take note that this process has appended up to `position`; other processes are told soon."""
        self._move_to(position)
        self._to_notify.set()

    async def wait_beyond(self, position: int) -> None:
        """Return once the log is known to reach beyond `position`."""
        while self.position <= position:
            await self._moved.wait()

    async def wait_until_elsewhere(self, position: int) -> None:
        """Return once the head is known to be elsewhere than at `position`: beyond it, or before it after a loss."""
        while self.position == position:
            await self._moved.wait()

    async def refresh(self) -> None:
        """Look where the head is now. Raises LogCorruptedError."""
        row = await self._database.fetchrow(QUERIES["watch_head"])
        if row is None:
            raise LogCorruptedError(problem="no head row")
        position, acceptance = row
        if acceptance != self._acceptance:
            self._acceptance = acceptance
            if position < self.position:
                self.position = position
                self._wake()
        self._move_to(position)
        await self._check_clock()

    async def _check_clock(self) -> None:
        """Log it, once, if the newest event was recorded at a time that is yet to come; look now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._next_clock_check:
            return
        self._next_clock_check = now + CLOCK_SECONDS
        moment = await self._database.fetchval(
            QUERIES["find_clock_ahead"], self._clock_ahead_seconds
        )
        if moment is not None and not self._clock_is_ahead:
            logger.error(
                "log_clock_ahead",
                message="The newest event has a recorded time in the future; so will all until the clock catches up.",
                recorded_at=moment.isoformat(),
            )
        self._clock_is_ahead = moment is not None

    def _move_to(self, position: int) -> None:
        if position > self.position:
            self.position = position
            self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _poll(self) -> None:
        """Look where the head is when told that it moved, and now and then anyway: that is the truth."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._notified.wait()
            self._notified.clear()
            try:
                await self.refresh()
            except Exception as error:
                raise_if_cancelled()
                if not is_outage(error):
                    logger.exception(
                        "head_poll_failed",
                        message="The head of the log could not be read; trying again.",
                    )
                await asyncio.sleep(self._poll_seconds)

    async def _listen(self, connection: "Connection[Record]") -> None:
        # How far the log reaches is not believed: anybody who may connect may notify.
        await connection.add_listener(CHANNEL, lambda *_: self._notified.set())
        # What was said before somebody listened.
        self._notified.set()
        await closed_event(connection).wait()

    async def _notify(self, connection: "Connection[Record]") -> None:
        # A notification is no promise: it need not wait for the disk.
        await commit_without_waiting(connection)
        while True:
            await self._to_notify.wait()
            self._to_notify.clear()
            await connection.execute(QUERIES["notify_head"], CHANNEL, str(self.position))
            await asyncio.sleep(REST_SECONDS)
