"""What a rebuild is compared with: reading the events and no more, a query by hand, the eventsourcing library."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from benchmarks.harness.command import fail
from benchmarks.harness.postgres import connected
from benchmarks.harness.server_process import ROOT
from benchmarks.rebuild.queries import QUERIES
from eventstore.fold.columns import names_of, shown_columns_of
from projections import load_projections

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from asyncpg import Connection, Record

SCHEMA = "by_hand"
LIBRARY = "library"

# `indexdef` of pg_indexes: whether it is unique, and what follows the table's name.
_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX \S+ ON \S+ (USING .*)", re.DOTALL)

# It says ready, or done, within this.
LIBRARY_SECONDS = 7_200.0


class TableHash(NamedTuple):
    """How many rows a table has, and what they hash to."""

    rows: int
    hash: Decimal


async def read_all(connection: "Connection[Record]", events: int) -> int:
    """Read the events to the end, into nothing; gives back how many bytes they were."""
    size = 0

    async def drop(data: bytes) -> None:
        nonlocal size
        size += len(data)

    await connection.copy_from_query(
        QUERIES["limit"], events, output=drop, format="binary", timeout=None
    )
    return size


class ByHand:
    """A projection made by one INSERT ... SELECT, into a table with the live one's columns and indexes."""

    def __init__(self, connection: "Connection[Record]", projection: str, live: str) -> None:
        self._connection = connection
        self._live = live
        self._projection = projection
        self._select = QUERIES[projection]
        self._table = f"{SCHEMA}.{projection}"
        self._indexes: list[tuple[str, str]] = []

    async def set_up(self) -> None:
        """Make room, and find out which indexes are wanted."""
        await self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        await self._connection.execute(f"DROP TABLE IF EXISTS {self._table}")
        rows = await self._connection.fetch(QUERIES["indexes"], self._live)
        self._indexes = [index_like(row["indexdef"]) for row in rows]

    async def make(self, events: int) -> None:
        """Make the table, fill it, then make its indexes."""
        execute = self._connection.execute
        await execute(QUERIES["make"].format(table=self._table, live=self._live))
        await execute(self._select.format(table=self._table), events, timeout=None)
        for unique, how in self._indexes:
            await execute(f"CREATE {unique}INDEX ON {self._table} {how}", timeout=None)

    async def hashes(self) -> tuple[TableHash, TableHash]:
        """What it made, and what is live."""
        made = await table_hash(self._connection, self._table, self._projection)
        return made, await table_hash(self._connection, self._live, self._projection)

    async def drop(self) -> None:
        """Leave nothing."""
        await self._connection.execute(f"DROP TABLE IF EXISTS {self._table}")


def index_like(definition: str) -> tuple[str, str]:
    """Of an index: "UNIQUE " or nothing, and what follows the name of its table. Raises BenchmarkError."""
    match = _INDEX.fullmatch(definition)
    if match is None:
        fail(f"no such index is known: {definition}")
    return match[1] or "", match[2]


async def table_hash(connection: "Connection[Record]", table: str, projection: str) -> TableHash:
    """How many rows a table has, and what they hash to: all that people see of a state but its position.

    A creation that comes late moves that, though the newest snapshot is another.
    """
    names = names_of(shown_columns_of(load_projections()[projection].state))
    query = QUERIES["table_hash"].format(table=table, names=f"stream, {names}")
    row = await connection.fetchrow(query, timeout=None)
    if row is None:
        fail(f"{table} does not answer")
    return TableHash(row["rows"], row["hash"])


class Library:
    """The eventsourcing library, with a database of its own beside Loopledger's."""

    def __init__(self, dsn: str, events: int) -> None:
        self._dsn = dsn
        self._target = urlsplit(dsn)._replace(path=f"/{LIBRARY}").geturl()
        self._events = events

    @asynccontextmanager
    async def filled(self) -> AsyncIterator["Process"]:
        """Have the events in its tables; gives its process, ready to go."""
        async with connected(self._dsn) as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {LIBRARY} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {LIBRARY}")
            # As those sessions of Loopledger that write what can be folded again.
            await connection.execute(f"ALTER DATABASE {LIBRARY} SET synchronous_commit = off")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.rebuild.library"),
            *(self._dsn, self._target, str(self._events)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            await _read_word(process, "ready")
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def hashes(self, connection: "Connection[Record]") -> tuple[TableHash, TableHash]:
        """What it made, and what the query makes of as many events."""
        async with connected(self._target) as there:
            made = await table_hash(there, "gift_cards", "gift_cards")
        by_hand = ByHand(connection, "gift_cards", "gift_cards")
        await by_hand.set_up()
        await by_hand.make(self._events)
        wanted, _ = await by_hand.hashes()
        await by_hand.drop()
        return made, wanted


async def project(process: "Process") -> float:
    """Have the library project; gives back how many seconds it says that took."""
    if process.stdin is not None:
        process.stdin.write(b"go\n")
    return float(await _read_word(process, "done"))


async def _read_word(process: "Process", word: str) -> str:
    if process.stdout is None or process.stderr is None:
        fail("the library has no pipes")
    async with asyncio.timeout(LIBRARY_SECONDS):
        line = (await process.stdout.readline()).decode()
        if not line.startswith(word):
            errors = (await process.stderr.read()).decode()
            fail(f"the eventsourcing library said {line!r}: {errors[-2000:]}")
    return line.removeprefix(word).strip()
