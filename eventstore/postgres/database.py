"""The database: its connections, in a pool and apart from it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
import structlog

from eventstore.errors import PoolerError, PostgresError
from eventstore.postgres.failures import describe, is_outage
from eventstore.postgres.holes import check_head
from eventstore.postgres.queries import QUERIES
from eventstore.postgres.roles import with_password
from eventstore.postgres.schema import (
    change_patiently,
    check_server,
    is_distributed,
    set_up_schema,
)
from eventstore.postgres.sessions import refuse_pooler, session_settings, set_up_session
from eventstore.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Connection, Pool, Record
    from asyncpg.pool import PoolConnectionProxy

    _Base = Connection[Record]
    Session: TypeAlias = Connection[Record] | PoolConnectionProxy[Record]
else:
    _Base = asyncpg.Connection

T = TypeVar("T")

logger = structlog.get_logger()

# Seconds until a server that does not answer at all counts as away.
CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 30.0

# The same from our side, which the driver leaves to the system: two hours. What cannot be set here is left out.
CLIENT_KEEPALIVES = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 11_000,
}

# Seconds until a connection outside the pool that was lost is opened again.
RECONNECT_SECONDS = 0.5

Connect: TypeAlias = "Callable[[], Awaitable[Connection[Record]]]"


class _Pooled(_Base):
    """A connection of a pool. The pool closes one that it replaces in a task that nobody waits for."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's own
        """Close it; if it is dead already, silently."""
        with suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
            await super().close(timeout=timeout)


class Database:
    """One Postgres, by its URL. The pool is there between `open` and `close`.

    `durable=False` is for a process that writes through the pool only what can be folded again. `distributed`: the log
    lies on the machines of a Citus cluster.
    """

    def __init__(self, dsn: str, *, pool_connections: int, durable: bool = True) -> None:
        self._set_up_session = _set_up_durable if durable else _set_up_for_folding
        self.distributed = False
        self._dsn = with_password(dsn)
        self._pool_connections = pool_connections
        self._pool: Pool[Record] | None = None
        # Whoever waits for a connection gets one in turn: the pool alone lets newcomers overtake, again and again.
        self._turns = asyncio.Semaphore(pool_connections)

    async def open(self) -> None:
        """Connect, check the server and bring the schema up to date. Raises PostgresError, LogCorruptedError."""
        connection = await self.connect_or_explain()
        try:
            await refuse_pooler(connection, self._connect)
            await check_server(connection)
            await set_up_schema(connection)
            await check_head(connection)
            self.distributed = await is_distributed(connection)
        finally:
            await connection.close()
        self._pool = await asyncpg.create_pool(
            self._dsn,
            # None is kept open for its own sake: asyncpg would log a traceback whenever Postgres goes away.
            min_size=0,
            max_size=self._pool_connections,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            server_settings=session_settings(self._dsn),
            connection_class=_Pooled,
            init=self._set_up_pooled,
            reset=_reset_nothing,
        )

    async def _set_up_pooled(self, connection: "Connection[Record]") -> None:
        keep_alive(connection)
        await self._set_up_session(connection)

    async def close(self) -> None:
        """Close the connections at once, whatever they are doing."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def connect_or_explain(self, setting: str = "DATABASE_URL") -> "Connection[Record]":
        """Open a connection outside the pool, the first one by the URL of this setting. Raises PostgresError."""
        try:
            return await self.connect()
        except asyncpg.ProtocolViolationError as error:
            raise PoolerError(problem=f"says: {error}") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            # The text of a ValueError quotes the URL, password and all.
            if isinstance(error, ValueError):
                why = "its URL cannot be read"
            elif isinstance(error, TimeoutError):
                why = f"nothing that is Postgres answered within {CONNECT_SECONDS:g} s"
            elif isinstance(error, OSError) and (error.errno or 0) > 0:
                why = os.strerror(error.errno or 0)
            else:
                why = str(error) or type(error).__name__
            way_out = "; unset it to use the embedded Postgres" if setting == "DATABASE_URL" else ""
            raise PostgresError(
                problem=f"no connection to the database ({why})",
                remedy=f"Check {setting} and that the server runs{way_out}.",
            ) from (None if isinstance(error, ValueError) else error)

    async def connect(self) -> "Connection[Record]":
        """Open a connection outside the pool; the caller closes it."""
        connection = await self._connect()
        try:
            keep_alive(connection)
            await _set_up_durable(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connect(self) -> "Connection[Record]":
        return await asyncpg.connect(
            self._dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            server_settings=session_settings(self._dsn),
        )

    async def change_tables(
        self,
        change: "Callable[[Connection[Record]], Awaitable[None]]",
        what: str,
        on_wait: "Callable[[str], Awaitable[None]]",
    ) -> None:
        """Do `change` in a transaction, one server at a time, however long it takes; `what` is that, for the log.

        Nobody waits long behind it: where others have a lock that it needs, it gives up what it has, and tries again;
        `on_wait` is told why, now and then.
        """
        connection = await self._connect()
        try:
            await self._set_up_session(connection)
            await change_patiently(connection, change, what, on_wait)
        finally:
            connection.terminate()

    async def fetch(self, query: str, *values: object) -> "list[Record]":
        """Read rows. A connection that proves lost is replaced, once."""
        return await self._read(lambda pool: pool.fetch(query, *values))

    async def fetchrow(self, query: str, *values: object) -> "Record | None":
        """Read one row, as `fetch` does."""
        return await self._read(lambda pool: pool.fetchrow(query, *values))

    async def fetchval(self, query: str, *values: object) -> Any:  # noqa: ANN401 - what the query gives
        """Read one value, as `fetch` does."""
        return await self._read(lambda pool: pool.fetchval(query, *values))

    async def execute(self, query: str, *values: object) -> None:
        """Run one statement that may safely run twice, as `fetch` does."""
        await self._read(lambda pool: pool.execute(query, *values))

    async def _read(self, read: "Callable[[Pool[Record]], Awaitable[T]]") -> T:
        async with self._turns:
            return await self._read_in_turn(read)

    async def _read_in_turn(self, read: "Callable[[Pool[Record]], Awaitable[T]]") -> T:
        try:
            return await read(self._open_pool)
        except Exception as error:
            raise_if_cancelled()
            if not is_outage(error):
                raise
            # A pool hands out connections that died unnoticed, and where one did, others may have: a new one is needed.
            # Where Postgres has no more to give, those that live are kept.
            if not isinstance(error, asyncpg.InsufficientResourcesError):
                await self._open_pool.expire_connections()
            return await read(self._open_pool)

    @property
    def _open_pool(self) -> "Pool[Record]":
        if self._pool is None:
            message = "the database is not open"
            raise RuntimeError(message)
        return self._pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PoolConnectionProxy[Record]"]:
        """A connection of the pool, in a transaction."""
        async with (
            self._turns,
            self._open_pool.acquire() as connection,
            connection.transaction(),
        ):
            yield connection

    async def is_available(self) -> bool:
        """Say whether a query gets an answer now."""
        try:
            await self._open_pool.fetchval(QUERIES["ping"], timeout=2)
        except Exception as error:
            if is_outage(error):
                return False
            raise
        return True


async def run_connected(
    connect: Connect, work: "Callable[[Connection[Record]], Awaitable[None]]"
) -> None:
    """Do `work` on a connection of its own; again on a new one whenever work or connection ends, until cancelled."""
    while True:
        connection: Connection[Record] | None = None
        try:
            connection = await connect()
            await work(connection)
        except Exception as error:
            raise_if_cancelled()
            if is_outage(error):
                logger.debug(
                    "connection_lost",
                    message="A connection outside the pool was lost; connecting again.",
                    error=describe(error),
                )
            else:
                # A password that is being changed, a bug: whatever it is, nobody would notice that this gave up.
                logger.error(
                    "connection_failed",
                    message="A connection outside the pool failed; connecting again.",
                    exc_info=error,
                )
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(RECONNECT_SECONDS)


def closed_event(connection: "Connection[Record]") -> asyncio.Event:
    """Give an event that is set when `connection` ends."""
    event = asyncio.Event()
    if connection.is_closed():
        event.set()
    connection.add_termination_listener(lambda _: event.set())
    return event


def keep_alive(connection: "Connection[Record]") -> None:
    """Have the system notice within seconds that the other end of a TCP connection is gone."""
    # The driver gives no other way to its socket.
    found = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined] # noqa: SLF001
    if found is None or found.family == getattr(socket, "AF_UNIX", None):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in CLIENT_KEEPALIVES.items():
        if (option := getattr(socket, name, None)) is not None:
            found.setsockopt(socket.IPPROTO_TCP, option, value)


async def commit_without_waiting(connection: "Connection[Record]") -> None:
    """Have commits not wait for the disk: for what may be lost, or can be folded again."""
    await connection.execute(QUERIES["commit_without_waiting"])


async def keep_plans(connection: "Connection[Record]") -> None:
    """Have the session plan each of its statements once, where plans do not have to depend on the values."""
    await connection.execute(QUERIES["keep_plans"])


async def _set_up_durable(connection: "Connection[Record]") -> None:
    """Have commits wait for the disk, whatever the role or the database is set to."""
    await set_up_session(connection)
    await connection.execute(QUERIES["wait_for_disk"])


async def _set_up_for_folding(connection: "Connection[Record]") -> None:
    """Set a session up for writing only what can be folded again."""
    await set_up_session(connection)
    await commit_without_waiting(connection)
    await keep_plans(connection)


async def _reset_nothing(_: object) -> None:
    """No code here changes a session, so a connection goes back to the pool without the round trip of a reset."""
