"""Faults at the border to Postgres: a connection that is lost before, while or after a statement is carried out.

Each statement is given a fault, or "none". Behind the faults stands a real connection to a real server, so what a
fault leaves behind is what Postgres makes of it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import asyncpg

from eventstore.fold.queries import QUERIES as FOLD
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.database import Database
from eventstore.postgres.queries import QUERIES as POSTGRES

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

T = TypeVar("T")

# "under way": sent, but neither carried out nor answered when the connection is lost.
# "dies cancelled": waits; should the caller be cancelled meanwhile, the connection dies as well.
Fault: TypeAlias = Literal[
    "none", "slow", "lost before", "lost after", "under way", "dies cancelled", "hangs"
]

# How asyncpg shows a server that dies, and one that is not there.
LOST: tuple[Callable[[], Exception], ...] = (
    lambda: asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    lambda: asyncpg.InterfaceError("connection is closed"),
    lambda: asyncpg.InternalClientError("got result for unknown protocol state 3"),
    lambda: asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    lambda: ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError,
)
AWAY: tuple[Callable[[], Exception], ...] = (
    lambda: ConnectionRefusedError(111, "Connection refused"),
    lambda: FileNotFoundError(2, "No such file or directory"),
    lambda: asyncpg.CannotConnectNowError("the database system is starting up"),
    lambda: asyncpg.TooManyConnectionsError("sorry, too many clients already"),
)

_NAMES = {sql: name for name, sql in {**POSTGRES, **LOG, **FOLD}.items()}


def _name(query: str) -> str:
    """A query's name; those of a generation's tables are made as they are needed."""
    return _NAMES.get(query) or ("write_batch" if "WITH moved" in query else "load_states")


class FaultInjector:
    """Chooses the fault of every statement, by its name, and keeps a trace of all but "none"."""

    def __init__(self, choose: Callable[[str], Fault], seed: int = 0) -> None:
        self.trace: list[str] = []
        self.random = random.Random(seed)
        self.on = True
        self._choose = choose

    async def run(
        self, name: str, carry_out: Callable[[], Awaitable[T]], lose: Callable[[], None]
    ) -> T:
        """Carry a statement out with the fault chosen for it."""
        fault = self._choose(name) if self.on else "none"
        if fault != "none":
            self.trace.append(f"{name}: {fault}")
        if fault == "hangs":
            await asyncio.Event().wait()
        if fault == "slow":
            await asyncio.sleep(self.random.uniform(0, 0.05))
        if fault == "under way":
            statement = asyncio.ensure_future(carry_out())
            try:
                # Long enough for the bytes to leave this process.
                await asyncio.wait([statement], timeout=0.05)
            finally:
                lose()
                with suppress(Exception):
                    await statement
                lose()
            raise self._error(name)
        if fault == "lost before":
            lose()
            raise self._error(name)
        try:
            result = await carry_out()
        except asyncio.CancelledError:
            if fault == "dies cancelled":
                lose()
            raise
        if fault == "lost after":
            lose()
            raise self._error(name)
        return result

    def _error(self, name: str) -> Exception:
        error = self.random.choice(AWAY if name == "connect" else LOST)()
        self.trace.append(f"{name} ends in {type(error).__name__}")
        return error


def planned_faults(plan: Sequence[tuple[str, Fault]]) -> FaultInjector:
    """The faults of `plan`, each for the next statement of its name; all others get none."""
    left = list(plan)

    def choose(name: str) -> Fault:
        return left.pop(0)[1] if left and left[0][0] == name else "none"

    return FaultInjector(choose)


def random_faults(seed: int, share: float) -> FaultInjector:
    """A random fault for that share of all statements, for as long as it is on."""
    faults: tuple[Fault, ...] = ("slow", "lost before", "lost after", "dies cancelled", "under way")
    chance = random.Random(seed)

    def choose(_: str) -> Fault:
        return chance.choice(faults) if chance.random() < share else "none"

    return FaultInjector(choose, seed)


class FaultyConnection:
    """A connection whose statements have faults; everything else goes to the real one."""

    def __init__(self, real: Any, faults: FaultInjector) -> None:  # noqa: ANN401 - a Connection or a pool's proxy of one
        self._real = real
        self._faults = faults

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        method = getattr(self._real, name)
        if name not in {"fetch", "fetchrow", "fetchval", "execute"}:
            return method

        async def run(query: str, *values: object, **options: object) -> object:
            return await self._faults.run(
                _NAMES.get(query, name), lambda: method(query, *values, **options), self._lose
            )

        return run

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction whose BEGIN and COMMIT may have faults too."""
        transaction = self._real.transaction()
        await self._faults.run("begin", transaction.start, self._lose)
        try:
            yield
        except BaseException:
            await transaction.rollback()
            raise
        await self._faults.run("commit", transaction.commit, self._lose)

    def _lose(self) -> None:
        self._real.terminate()


class FaultyDatabase(Database):
    """A database whose connections are faulty from the moment it is open."""

    def __init__(self, dsn: str, faults: FaultInjector) -> None:
        super().__init__(dsn, pool_connections=8)
        self._faults = faults
        self._is_open = False

    async def open(self) -> None:
        """Open without faults."""
        await super().open()
        self._is_open = True

    async def connect(self) -> "Connection[Record]":
        """A faulty connection, or none."""
        if not self._is_open:
            return await super().connect()
        opened: list[Connection[Record]] = []
        connect = super().connect

        async def open_one() -> None:
            opened.append(await connect())

        def lose() -> None:
            for real in opened:
                real.terminate()

        await self._faults.run("connect", open_one, lose)
        return cast("Connection[Record]", FaultyConnection(opened[0], self._faults))

    async def fetch(self, query: str, *values: object) -> "list[Record]":
        """Read rows, or fail to."""
        read = super().fetch
        return await self._faults.run(_name(query), lambda: read(query, *values), _nothing)

    async def fetchrow(self, query: str, *values: object) -> "Record | None":
        """Read one row, or fail to."""
        read = super().fetchrow
        return await self._faults.run(_name(query), lambda: read(query, *values), _nothing)

    async def fetchval(self, query: str, *values: object) -> Any:  # noqa: ANN401 - what the query gives
        """Read one value, or fail to."""
        read = super().fetchval
        return await self._faults.run(_name(query), lambda: read(query, *values), _nothing)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PoolConnectionProxy[Record]"]:
        """A transaction on a faulty connection of the pool."""
        async with self._open_pool.acquire() as real:
            faulty = FaultyConnection(real, self._faults)
            async with faulty.transaction():
                yield cast("PoolConnectionProxy[Record]", faulty)


def _nothing() -> None:
    """Lose nothing: there is no connection yet, or the pool's own looks after itself."""
