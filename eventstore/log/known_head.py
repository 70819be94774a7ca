"""How far a log is known to have reached, in a file outside the database.

A process knows how far the log has reached, and has no append accepted by one that ends before. Where every process is
started again beside an older copy of the database (a snapshot, a copy of its files, a replica that kept its timeline),
only this file remembers. It is a lower bound: it is written once a second, or after a rest once in three, and when a
server stops, and does not wait for the disk.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import msgspec
import structlog

from eventstore.errors import LoopledgerError
from eventstore.log.queries import QUERIES
from eventstore.postgres.database import Connect, run_connected
from eventstore.postgres.directory import Directory
from eventstore.postgres.failures import describe, is_outage
from eventstore.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Connection, Record

T = TypeVar("T")

logger = structlog.get_logger()

DIRECTORY = "known_heads"

# Seconds between two looks at the head: while it moves, and while it does not.
LOOK_SECONDS = 1.0
IDLE_SECONDS = 3.0

# Seconds that the last look may take: a stop waits for it.
LAST_LOOK_SECONDS = 1.0


class KnownHead(msgspec.Struct, frozen=True):
    """A log reached `position` at the time `at`, by the clock of its server.

    By then a timeline had been accepted `acceptance` times; what was written before that was told goes by the time.
    """

    position: int
    at: datetime
    acceptance: int = 2**31 - 1


async def position_that_holds(connection: "Connection[Record]", known: KnownHead) -> int:
    """The position that a log must have reached: the known one, unless an operator has since accepted to lose some."""
    accepted = await connection.fetchval(QUERIES["accepted_since"], known.at, known.acceptance)
    return known.position if accepted is None else min(known.position, accepted)


class HeadMemory:
    """Remembers the head of one log, in a file below `data_dir` that is named after the log.

    The name is made of what a copy of the database shares with it, and another database or schema does not.
    """

    def __init__(self, data_dir: Path, connect: Connect) -> None:
        self.known: KnownHead | None = None
        self._data_dir = data_dir
        self._connect = connect
        self._name: str | None = None
        self._failing = False

    async def load(self) -> None:
        """Read what is remembered; what cannot be is not."""
        connection = await self._connect()
        try:
            row = await connection.fetchrow(QUERIES["identify_log"])
            if row is None:
                return
            self._name = "-".join(str(part) for part in row) + ".json"
            text = await asyncio.to_thread(self._in_directory, lambda found: found.read(self._name))
            if text is not None:
                self.known = msgspec.json.decode(text, type=KnownHead)
                await self._report(connection, self.known)
        except (OSError, LoopledgerError, msgspec.DecodeError, asyncpg.PostgresError) as error:
            self._complain(error)
        finally:
            connection.terminate()

    async def run(self) -> None:
        """Remember, until cancelled."""
        if self._name is not None:
            await run_connected(self._connect, self._follow)

    async def look_at_last(self) -> None:
        """Remember the head once more, now that nobody appends any longer."""
        if self._name is None:
            return
        try:
            async with asyncio.timeout(LAST_LOOK_SECONDS):
                connection = await self._connect()
                try:
                    await self.look(connection)
                finally:
                    connection.terminate()
        except Exception as error:  # noqa: BLE001 - nothing is to hinder a stop
            raise_if_cancelled()
            if not is_outage(error):
                self._complain(error)

    async def _follow(self, connection: "Connection[Record]") -> None:
        while True:
            moved = await self.look(connection)
            await asyncio.sleep(LOOK_SECONDS if moved else IDLE_SECONDS)

    async def look(self, connection: "Connection[Record]") -> bool:
        """Remember the head, and say whether it has moved; a head that is behind is ignored."""
        row = await connection.fetchrow(QUERIES["read_head_at"])
        position, now, acceptance = row or (0, None, 0)
        if now is None:
            return False
        if self.known is not None:
            if position < self.known.position:
                position = max(position, await position_that_holds(connection, self.known))
            if position == self.known.position:
                return False
        self.known = KnownHead(position, now, acceptance)
        text = msgspec.json.encode(self.known).decode()
        try:
            await asyncio.to_thread(self._in_directory, lambda found: self._write(found, text))
            self._failing = False
        except (OSError, LoopledgerError) as error:
            self._complain(error)
        return True

    def _write(self, directory: Directory, text: str) -> None:
        if self._name is not None:
            owner, group = os.geteuid(), os.getegid()
            directory.write(self._name, text, owner=owner, group=group, wait_for_disk=False)

    def _in_directory(self, act: Callable[[Directory], T]) -> T:
        """Do something in the directory, which is made if it is missing. Raises OSError, PostgresError."""
        # Postgres, which may run as another user, has to pass through the data directory.
        self._data_dir.mkdir(
            mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True
        )
        with (
            Directory(self._data_dir, {0, os.geteuid()}) as data_dir,
            data_dir.make(DIRECTORY, 0o700, os.geteuid(), os.getegid()) as found,
        ):
            return act(found)

    @staticmethod
    async def _report(connection: "Connection[Record]", known: KnownHead) -> None:
        head = await connection.fetchval(QUERIES["read_head"])
        holds = await position_that_holds(connection, known)
        if head < holds:
            logger.critical(
                "log_behind",
                message="The log ends before the head that it is known to have reached; every delivery is refused.",
                head=head,
                known=holds,
                advice="see that this is the right database; if it is to go on without what came after, run: "
                "loopledger failover accept --behind",
            )

    def _complain(self, error: Exception) -> None:
        if not self._failing:
            logger.warning(
                "known_head_not_kept",
                message="The head of the log could not be written to, or read from, the data directory.",
                error=describe(error) if not isinstance(error, OSError) else str(error),
            )
        self._failing = True
