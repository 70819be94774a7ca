"""Waking other processes: one coalesced NOTIFY outside every append, and a listener that survives an outage.

NOTIFY takes a lock over the whole cluster at commit, so it never rides in an append's transaction. Nothing depends on
it: a reader that hears nothing finds out at its next poll.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from eventstore.log.queries import QUERIES
from eventstore.postgres.database import Connect, be_quick, closed, keep_connected

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.postgres.database import Session

CHANNEL = "loopledger_head"

# Seconds between two notifications: however busy the log, others are woken this often and no more.
REST_SECONDS = 0.015


async def read_head(connection: "Session") -> int:
    """The newest position, as the database has it."""
    head: int = await connection.fetchval(QUERIES["read_head"])
    return head


class HeadNotifier:
    """Tells other processes how far the log reaches."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._head = 0
        self._moved = asyncio.Event()

    def moved(self, head: int) -> None:
        """Take note of a new head; it is told soon, together with what follows at once."""
        self._head = head
        self._moved.set()

    async def run(self) -> None:
        """Notify until cancelled."""
        await keep_connected(self._connect, self._notify)

    async def _notify(self, connection: "Connection[Record]") -> None:
        # A notification is no promise: it need not wait for the disk.
        await be_quick(connection)
        while True:
            await self._moved.wait()
            self._moved.clear()
            await connection.execute(QUERIES["notify_head"], CHANNEL, str(self._head))
            await asyncio.sleep(REST_SECONDS)


class HeadListener:
    """Hears that the log reaches further. How far is not believed: anybody who may connect may notify."""

    def __init__(self, connect: Connect, on_moved: Callable[[], None]) -> None:
        self._connect = connect
        self._on_moved = on_moved

    async def run(self) -> None:
        """Listen until cancelled."""
        await keep_connected(self._connect, self._listen)

    async def _listen(self, connection: "Connection[Record]") -> None:
        await connection.add_listener(CHANNEL, lambda *_: self._on_moved())
        # What was said before somebody listened.
        self._on_moved()
        await closed(connection).wait()
