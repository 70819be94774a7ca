"""Embedded Postgres: a server of our own, as a child process, on a private Unix socket.

Below the data directory lie `postgres/` (the cluster), `postgres.log`, `lock` and, where that path
is short enough, `socket/`. Whoever holds the flock on `lock` owns all of it, processes included.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self, TypeVar
from urllib.parse import quote

import asyncpg
import psutil
import structlog

from eventstore.errors import PostgresError
from eventstore.postgres.binaries import MAJOR, binaries_for
from eventstore.postgres.failures import is_outage
from eventstore.postgres.processes import (
    OWN_POSTGRES,
    WATCH_SECONDS,
    account_for,
    check_reachable,
    end,
    end_leftovers,
    path_to,
    postgres_in,
    run,
    spawn,
)
from eventstore.tasks import Backoff

NAME: Final = "loopledger"
PORT: Final = 5432

# sun_path holds 104 bytes on macOS, 108 on Linux, the closing NUL included.
SOCKET_BYTES: Final = 103
LOG_BYTES: Final = 10 * 1024 * 1024
TAIL_LINES: Final = 10

LEAST_BUFFERS_MIB: Final = 128
MOST_BUFFERS_MIB: Final = 512

REPORT_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 60.0
# Seconds before a server that died is started again: the first time, doubled up to the longest.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
# A server that lived this long was well: its end starts the pauses afresh.
WELL_SECONDS: Final = 5.0

# Given on the command line, so that no edit of postgresql.conf can weaken them unseen.
SERVER_SETTINGS: Final = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
    # We start it again when it ends. By itself it may wait for ever: Postgres 18.4 does not notice when its recovery
    # from a crash loses its process.
    "restart_after_crash": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The text of an error quotes the value that caused it: the client gets it, the log must not.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

# Collation and case come from Postgres itself: an upgrade of the system cannot corrupt an index.
INITDB_OPTIONS: Final = (
    f"--username={NAME} --auth-local=trust --auth-host=reject --data-checksums "
    "--encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8"
).split()

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)
_T = TypeVar("_T")


class EmbeddedPostgres:
    """One Postgres server for one data directory, restarted whenever it dies.

    `run_as` is the existing unprivileged user that Postgres runs as if we are root, because it
    refuses to be root; anyone else runs it as themselves. `stop_seconds` is what a clean shutdown
    may take. Every failure is a PostgresError.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        run_as: str = "nobody",
        stop_seconds: float = 3.0,
        max_connections: int = 60,
    ) -> None:
        self._max_connections = max_connections
        self._data_dir = data_dir.resolve()
        self._pgdata = self._data_dir / "postgres"
        self.log_file = self._data_dir / "postgres.log"
        self._run_as = run_as
        self._stop_seconds = stop_seconds
        self._lock: int | None = None
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._supervisor: asyncio.Task[None] | None = None
        # What blocks runs in threads, perhaps of two event loops: one at a time, none after stop().
        self._turn = threading.Lock()
        self._stopping = threading.Event()

    @property
    def dsn(self) -> str:
        """The URL to connect to; it stays the same from start() to stop()."""
        if self._socket_dir is None:
            raise PostgresError(
                problem=f"the embedded server of {self._data_dir} is not started",
                remedy="Start it before connecting.",
            )
        return embedded_dsn(self._socket_dir)

    @property
    def postmaster_pid(self) -> int | None:
        """The pid of the running server; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self) -> None:
        """Return once connections are accepted, however long a recovery takes; then supervise."""
        if self._lock is not None:
            return
        try:
            await _to_its_end(self._prepare)
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
                supervisor.cancel()
                await asyncio.wait([supervisor])
            elif not loop.is_closed():
                loop.call_soon_threadsafe(supervisor.cancel)
        await _to_its_end(self._halt)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _prepare(self) -> None:
        """Take the data directory and see that a cluster of our major version is in it."""
        with self._turn, self._disk_errors():
            self._stopping.clear()
            self._account = account_for(self._run_as)
            self._binaries = binaries_for(self._account)
            self._check_binaries()
            self._make_data_dir()
            self._lock = _lock(self._data_dir)
            self._socket_dir = self._choose_socket_dir()
            self._make_cluster()

    async def _launch(self) -> None:
        """Start a postmaster, wait until it answers, and see that our database is there."""
        process = await _to_its_end(self._spawn)
        began = time.monotonic()
        report = began + REPORT_SECONDS
        pause = 0.02
        while True:
            try:
                await self._make_database()
            except Exception as error:
                if not is_outage(error):
                    raise PostgresError(
                        problem=f"the server of {self._data_dir} does not let us in: {error}",
                        remedy=f"Its log is {self.log_file}.",
                    ) from error
                problem = str(error)
            else:
                return
            if process.poll() is not None:
                raise PostgresError(
                    problem=f"it ended with status {process.returncode} while starting: "
                    f"{await asyncio.to_thread(self._log_tail)}",
                    remedy=f"The whole log is {self.log_file}.",
                )
            if time.monotonic() >= report:
                report += REPORT_SECONDS
                seconds = round(time.monotonic() - began)
                log.info("waiting for Postgres to recover", seconds=seconds, problem=problem)
            # A refused connection is a line in its log: a long recovery must not fill the disk.
            pause = min(pause * 1.5, 1.0)
            await asyncio.sleep(pause)

    async def _make_database(self) -> None:
        """Create our database if a crash came between initdb and here."""
        connection = await asyncpg.connect(
            self.dsn, database="postgres", timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS
        )
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", NAME):
                await connection.execute(f"CREATE DATABASE {NAME}")
        finally:
            connection.terminate()

    async def _supervise(self) -> None:
        """Start the postmaster again whenever it is gone, at growing intervals while it fails."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, well_seconds=WELL_SECONDS)
        while not self._stopping.is_set():
            await asyncio.sleep(WATCH_SECONDS)
            process = self._process
            if process is None or process.poll() is None:
                continue
            pause = backoff.next_pause()
            log.warning(
                "Postgres ended by itself, starting it again",
                status=process.returncode,
                seconds=pause,
            )
            await asyncio.sleep(pause)
            try:
                await self._launch()
            except Exception as error:  # noqa: BLE001 - whatever it is, giving up would be silent
                log.error("Postgres did not start", problem=str(error))

    def _check_binaries(self) -> None:
        """Run the server's binary as the account that is to run it."""
        postgres = self._binaries / "postgres"
        try:
            status, output = run(self._account, [postgres, "--version"], Path("/"))
        except OSError as error:
            status, output = -1, str(error)
        if status != 0:
            raise PostgresError(
                problem=f"{postgres} does not run on this machine: {output}",
                remedy=f"Instead, {OWN_POSTGRES}.",
            )

    def _make_data_dir(self) -> None:
        """Create what is missing on the way to the data directory; never change what is there."""
        way = path_to(self._data_dir)
        there = [each for each in way if each.exists()]
        if not there[-1].is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there[-1]))
        check_reachable(self._account, there)
        for each in way[len(there) :]:
            each.mkdir(mode=0o700)
            if self._account is not None:
                each.chmod(0o711)

    def _choose_socket_dir(self) -> Path:
        """Give the directory of the socket: in the data directory if that path can be one."""
        path = str(self._data_dir / "socket")
        size = len(os.fsencode(path)) + len(f"/.s.PGSQL.{PORT}")
        # A comma separates directories and hosts, and a URL cannot spell what is not Unicode.
        if size <= SOCKET_BYTES and path.isprintable() and not set(path) & set(',"'):
            return Path(path)
        check_reachable(self._account, path_to(Path(tempfile.gettempdir()).resolve()))
        return Path(tempfile.mkdtemp(prefix="loopledger-"))

    def _make_cluster(self) -> None:
        """Run initdb beside the place and rename, so that what is there is always whole."""
        new = self._data_dir / "postgres.new"
        if new.exists():
            end_leftovers(new, self._stopping)
            shutil.rmtree(new)
        if (self._pgdata / "PG_VERSION").exists():
            found = (self._pgdata / "PG_VERSION").read_text().strip()
            if found != str(MAJOR):
                raise PostgresError(
                    problem=f"{self._pgdata} was written by Postgres {found}, "
                    f"and the embedded server is Postgres {MAJOR}",
                    remedy=f"Use pg_upgrade, or pg_dump of Postgres {found} into a new "
                    "LOOPLEDGER_DATA_DIR; "
                    f"or set DATABASE_URL to a running Postgres {found}.",
                )
            return
        self._make_private(new)
        status, output = run(
            self._account, [self._binaries / "initdb", *INITDB_OPTIONS, "-D", new], new
        )
        if status != 0:
            shutil.rmtree(new)
            raise PostgresError(
                problem=f"initdb ended with status {status}: {output}",
                remedy=f"See that {self._data_dir} is on a writable disk with 100 MB to spare.",
            )
        new.rename(self._pgdata)
        directory = os.open(self._data_dir, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _make_private(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        if self._account is not None:
            os.chown(directory, self._account.pw_uid, self._account.pw_gid)

    def _spawn(self) -> subprocess.Popen[bytes]:
        """End what an earlier server left, then start a postmaster."""
        with self._turn, self._disk_errors():
            end_leftovers(self._pgdata, self._stopping)
            if self._stopping.is_set() or self._socket_dir is None:
                raise PostgresError(problem="it is being stopped", remedy="Start it again.")
            # Postgres trusts any live process with the pid in these files, be it another program.
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
            self._make_private(self._socket_dir)
            for each in self._socket_dir.iterdir():
                each.unlink()
            if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
                self.log_file.replace(self.log_file.with_name("postgres.log.1"))
            command: list[str | Path] = [self._binaries / "postgres", "-D", self._pgdata]
            settings = SERVER_SETTINGS | {
                "unix_socket_directories": f'"{self._socket_dir}"',
                "max_connections": str(self._max_connections),
                "shared_buffers": f"{_shared_buffers_mib()}MB",
            }
            for name, value in settings.items():
                command += ["-c", f"{name}={value}"]
            output = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._log_start = os.fstat(output).st_size
                self._process = spawn(self._account, command, Path("/"), output)
            finally:
                os.close(output)
            return self._process

    def _halt(self) -> None:
        """Stop the postmaster, more firmly step by step, and give the data directory back."""
        with self._turn:
            process, self._process = self._process, None
            if process is not None:
                end(process, self._stop_seconds)
                if process.returncode != 0:
                    for each in postgres_in(self._pgdata):
                        with contextlib.suppress(psutil.Error):
                            each.kill()
            if self._socket_dir is not None and self._socket_dir.parent != self._data_dir:
                shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _log_tail(self) -> str:
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return " / ".join(lines[-TAIL_LINES:]) or "it logged nothing"

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PostgresError(
                problem=f"the data directory {self._data_dir} cannot be used ({error})",
                remedy="Set LOOPLEDGER_DATA_DIR to a directory that you may write to; "
                f"or {OWN_POSTGRES}.",
            ) from error


def embedded_dsn(socket_dir: Path) -> str:
    """The URL of an embedded server, by the directory of its socket."""
    host = quote(os.fsencode(socket_dir), safe="/")
    # Port and sslmode are named so that PGPORT and PGSSLMODE are not asked.
    return f"postgresql://{NAME}@/{NAME}?host={host}&port={PORT}&sslmode=disable"


async def _to_its_end(step: Callable[[], _T]) -> _T:
    """Run `step` in a thread; a cancellation waits for it, so that nothing goes on unseen."""
    work = asyncio.get_running_loop().run_in_executor(None, step)
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])


def _shared_buffers_mib() -> int:
    """Memory for pages: a sixteenth of the machine's, within what a stop can write out. It is taken as it is needed."""
    share = psutil.virtual_memory().total // 16 // 2**20
    return max(LEAST_BUFFERS_MIB, min(share, MOST_BUFFERS_MIB))


def _lock(data_dir: Path) -> int:
    """Take the lock of the data directory; the file descriptor holds it, no child inherits it."""
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        pid = os.pread(lock, 20, 0).decode().strip()
        os.close(lock)
        raise PostgresError(
            problem=f"{data_dir} is in use by another Loopledger (pid {pid})",
            remedy="Stop that one first, or set LOOPLEDGER_DATA_DIR to another directory.",
        ) from error
    return lock
