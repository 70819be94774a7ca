"""Embedded Postgres: a server of our own, as a child process, on a private Unix socket, started again when it dies."""

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, TypeVar

import asyncpg
import psutil
import structlog

from eventstore.errors import PostgresError
from eventstore.postgres.cluster import Cluster, embedded_dsn
from eventstore.postgres.failures import is_outage
from eventstore.postgres.processes import WATCH_SECONDS, end, postgres_in
from eventstore.postgres.queries import QUERIES
from eventstore.postgres.roles import ADMIN, NAME, OWNER, set_up_roles
from eventstore.postgres.server_settings import PORT, SEGMENT_MIB
from eventstore.tasks import Backoff, cancel_all

REPORT_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 60.0
# How long a server may take to notice that others are let in than before.
NOTICE_SECONDS: Final = 5.0
# Seconds before a server that died is started again: the first time, doubled up to the longest.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
# After a server that ran this long, the pauses begin afresh.
STABLE_SECONDS: Final = 5.0

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)
_T = TypeVar("_T")

_NOT_LET_IN: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


class EmbeddedPostgres:
    """One Postgres server for one data directory, restarted whenever it dies.

    `run_as` is the existing unprivileged user that Postgres runs as if we are root, because it
    refuses to be root (None: `loopledger` if there is one, else `nobody`); anyone else runs it as
    themselves. Members of `group` can reach its socket too, but enter only with a password.
    `stop_seconds` is what a clean shutdown may take. `wal_ready_mib` is how much write-ahead log is
    made with a new database and kept, since a new file of it would hold up an append. Every failure
    is a PostgresError.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        run_as: str | None = None,
        group: int | None = None,
        stop_seconds: float = 3.0,
        max_connections: int = 60,
        wal_ready_mib: int = 0,
    ) -> None:
        self._cluster = Cluster(
            data_dir,
            run_as=run_as,
            group=group,
            max_connections=max_connections,
            wal_ready_mib=wal_ready_mib,
        )
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        # Until when it may be that the server has not noticed yet who is let in, and whether that was begun again.
        self._noticed_by = 0.0
        self._set_up_again = False
        # What blocks runs in threads, perhaps of two event loops: one at a time, and none after stop().
        self._turn = threading.Lock()
        self._stopping = threading.Event()

    @property
    def dsn(self) -> str:
        """The URL for the owner of its database."""
        return self.dsn_for(OWNER)

    def dsn_for(self, role: str) -> str:
        """The URL to connect to as a role; it stays the same from start() to stop()."""
        if self._cluster.socket_dir is None:
            raise PostgresError(
                problem=f"the embedded server of {self._cluster.data_dir} is not started",
                remedy="Start it before connecting.",
            )
        return embedded_dsn(self._cluster.data_dir, role, self._cluster.socket_dir)

    @property
    def postmaster_pid(self) -> int | None:
        """The pid of the running server; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self) -> None:
        """Return once connections are accepted, however long a recovery takes; then supervise."""
        if self._cluster.taken:
            return
        try:
            await _in_thread(self._prepare)
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="supervise Postgres")

    async def stop(self) -> None:
        """Stop the server, cleanly within `stop_seconds` or else by a recovery at the next start.

        May be called at any time, more than once, and from another event loop than start().
        """
        self._stopping.set()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            loop = supervisor.get_loop()
            if loop is asyncio.get_running_loop():
                await cancel_all(supervisor)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(supervisor.cancel)
        await _in_thread(self._halt)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _prepare(self) -> None:
        with self._turn:
            self._stopping.clear()
            self._cluster.take(self._stopping)

    async def _launch(self) -> None:
        """Start a postmaster, wait until it answers, and see that our database is there."""
        process = await _in_thread(self._spawn)
        self._set_up_again = False
        began = time.monotonic()
        report = began + REPORT_SECONDS
        pause = 0.02
        while True:
            try:
                await self._enter(process)
            except Exception as error:
                if not is_outage(error) and not self._is_let_in_soon(error):
                    raise PostgresError(
                        problem=f"the server of {self._cluster.data_dir} refuses the connection: {error}",
                        remedy=f"Its log is {self._cluster.log_file}.",
                    ) from error
                problem = str(error)
            else:
                return
            if process.poll() is not None:
                raise PostgresError(
                    problem=f"it ended with status {process.returncode} while starting: "
                    f"{await asyncio.to_thread(self._cluster.log_tail)}",
                    remedy=f"The whole log is {self._cluster.log_file}.",
                )
            if time.monotonic() >= report:
                report += REPORT_SECONDS
                seconds = round(time.monotonic() - began)
                logger.info(
                    "postgres_recovering",
                    message="Waiting for the embedded Postgres to recover.",
                    seconds=seconds,
                    problem=problem,
                )
            # A refused connection is a line in its log: a long recovery must not fill the disk.
            pause = min(pause * 1.5, 1.0)
            await asyncio.sleep(pause)

    async def _enter(self, process: "subprocess.Popen[bytes]") -> None:
        """See that the owner can enter our database; first make roles and database, if that is not done."""
        if not await _in_thread(lambda: self._cluster.is_set_up):
            await set_up_roles(self._connect_as_admin, self._cluster.passwords)
            await self._make_segments()
            await self._let_in(process, set_up=False)
        try:
            connection = await self._connect(OWNER, NAME, self._cluster.passwords[OWNER])
            connection.terminate()
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidCatalogNameError):
            # Passwords that were lost, a crash between initdb and the database: once is enough.
            if not self._set_up_again:
                self._set_up_again = True
                await self._let_in(process, set_up=True)
            raise

    async def _make_segments(self) -> None:
        """Have files of write-ahead log ready."""
        if segments := self._cluster.wal_ready_mib // SEGMENT_MIB:
            connection = await self._connect_as_admin("postgres")
            try:
                await connection.execute(QUERIES["fill_segments"].format(segments=segments))
                await connection.execute("CHECKPOINT")
            finally:
                connection.terminate()

    async def _let_in(self, process: "subprocess.Popen[bytes]", *, set_up: bool) -> None:
        await _in_thread(lambda: self._cluster.let_in(process, set_up=set_up))
        self._noticed_by = time.monotonic() + NOTICE_SECONDS

    def _is_let_in_soon(self, error: Exception) -> bool:
        """Whether the server has only to notice who is let in from now on, which takes it a moment."""
        return isinstance(error, _NOT_LET_IN) and time.monotonic() < self._noticed_by

    async def _connect_as_admin(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        return await self._connect(ADMIN, database, None)

    async def _connect(
        self, role: str, database: str, password: str | None
    ) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            host=str(self._cluster.socket_dir),
            port=PORT,
            user=role,
            database=database,
            # Without one asyncpg looks for files.
            password=password or "",
            ssl=False,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
        )

    async def _supervise(self) -> None:
        """Start the postmaster again whenever it is gone, at growing intervals while it fails."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, stable_seconds=STABLE_SECONDS)
        while not self._stopping.is_set():
            await asyncio.sleep(WATCH_SECONDS)
            process = self._process
            if process is None or process.poll() is None:
                continue
            pause = backoff.next_pause()
            logger.warning(
                "postgres_died",
                message="The embedded Postgres ended by itself; starting it again.",
                status=process.returncode,
                seconds=pause,
            )
            await asyncio.sleep(pause)
            try:
                await self._launch()
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody would notice that this gave up
                logger.error(
                    "postgres_not_started",
                    message="The embedded Postgres did not start; trying again.",
                    problem=str(error),
                )

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._turn:
            self._process = self._cluster.start_postmaster(self._stopping)
            return self._process

    def _halt(self) -> None:
        """Stop the postmaster, more firmly step by step, and give the data directory back."""
        with self._turn:
            process, self._process = self._process, None
            if process is not None:
                end(process, self._stop_seconds)
                if process.returncode != 0:
                    for each in postgres_in(self._cluster.pgdata):
                        with contextlib.suppress(psutil.Error):
                            each.kill()
            self._cluster.release()


async def _in_thread(step: Callable[[], _T]) -> _T:
    """Run `step` in a thread; a cancellation waits for its end, so that nothing goes on unnoticed."""
    work = asyncio.get_running_loop().run_in_executor(None, step)
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])
