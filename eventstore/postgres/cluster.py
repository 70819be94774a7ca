"""The files of an embedded Postgres: a data directory, taken by a lock, with a cluster and a socket in it.

Below the data directory lie `postgres/` (the cluster), `postgres.log`, `lock` and, where that path is short enough,
`socket/`. Whoever holds the flock on `lock` owns all of it, processes included.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil

from eventstore.errors import PostgresError
from eventstore.postgres.binaries import MAJOR, binaries_for
from eventstore.postgres.processes import (
    OWN_POSTGRES,
    account_for,
    check_reachable,
    end_leftovers,
    path_to,
    run,
    spawn,
)

NAME: Final = "loopledger"
PORT: Final = 5432

# sun_path holds 104 bytes on macOS, 108 on Linux, the closing NUL included.
SOCKET_BYTES: Final = 103
LOG_BYTES: Final = 10 * 1024 * 1024
TAIL_LINES: Final = 10

LEAST_BUFFERS_MIB: Final = 128
MOST_BUFFERS_MIB: Final = 512

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


class Cluster:
    """One data directory: ours, with a cluster of our major version in it, from `take` to `release`.

    `run_as` is the existing unprivileged user that Postgres runs as if we are root. Its methods block, and raise
    PostgresError.
    """

    def __init__(self, data_dir: Path, *, run_as: str, max_connections: int) -> None:
        self.data_dir = data_dir.resolve()
        self.pgdata = self.data_dir / "postgres"
        self.log_file = self.data_dir / "postgres.log"
        # None while the data directory is not ours.
        self.socket_dir: Path | None = None
        self._run_as = run_as
        self._max_connections = max_connections
        self._lock: int | None = None
        self._log_start = 0

    @property
    def taken(self) -> bool:
        """Whether the data directory is ours."""
        return self._lock is not None

    def take(self, stopping: threading.Event) -> None:
        """Take the data directory and see that a cluster of our major version is in it."""
        with self._disk_errors():
            self._account = account_for(self._run_as)
            self._binaries = binaries_for(self._account)
            self._check_binaries()
            self._make_data_dir()
            self._lock = _lock(self.data_dir)
            self.socket_dir = self._choose_socket_dir()
            self._make_cluster(stopping)

    def release(self) -> None:
        """Give the data directory back."""
        if self.socket_dir is not None and self.socket_dir.parent != self.data_dir:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
        self.socket_dir = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start_postmaster(self, stopping: threading.Event) -> subprocess.Popen[bytes]:
        """End what an earlier server left, then start a postmaster."""
        with self._disk_errors():
            end_leftovers(self.pgdata, stopping)
            if stopping.is_set() or self.socket_dir is None:
                raise PostgresError(problem="it is being stopped", remedy="Start it again.")
            # Postgres trusts any live process with the pid in these files, be it another program.
            (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
            self._make_private(self.socket_dir)
            for each in self.socket_dir.iterdir():
                each.unlink()
            if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
                self.log_file.replace(self.log_file.with_name("postgres.log.1"))
            command: list[str | Path] = [self._binaries / "postgres", "-D", self.pgdata]
            settings = SERVER_SETTINGS | {
                "unix_socket_directories": f'"{self.socket_dir}"',
                "max_connections": str(self._max_connections),
                "shared_buffers": f"{_shared_buffers_mib()}MB",
            }
            for name, value in settings.items():
                command += ["-c", f"{name}={value}"]
            output = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._log_start = os.fstat(output).st_size
                return spawn(self._account, command, Path("/"), output)
            finally:
                os.close(output)

    def log_tail(self) -> str:
        """The last lines that the postmaster logged, in one."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return " / ".join(lines[-TAIL_LINES:]) or "it logged nothing"

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
        way = path_to(self.data_dir)
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
        path = str(self.data_dir / "socket")
        size = len(os.fsencode(path)) + len(f"/.s.PGSQL.{PORT}")
        # A comma separates directories and hosts, and a URL cannot spell what is not Unicode.
        if size <= SOCKET_BYTES and path.isprintable() and not set(path) & set(',"'):
            return Path(path)
        check_reachable(self._account, path_to(Path(tempfile.gettempdir()).resolve()))
        return Path(tempfile.mkdtemp(prefix="loopledger-"))

    def _make_cluster(self, stopping: threading.Event) -> None:
        """Run initdb beside the place and rename, so that what is there is always whole."""
        new = self.data_dir / "postgres.new"
        if new.exists():
            end_leftovers(new, stopping)
            shutil.rmtree(new)
        if (self.pgdata / "PG_VERSION").exists():
            found = (self.pgdata / "PG_VERSION").read_text().strip()
            if found != str(MAJOR):
                raise PostgresError(
                    problem=f"{self.pgdata} was written by Postgres {found}, "
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
                remedy=f"See that {self.data_dir} is on a writable disk with 100 MB to spare.",
            )
        new.rename(self.pgdata)
        directory = os.open(self.data_dir, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _make_private(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        if self._account is not None:
            os.chown(directory, self._account.pw_uid, self._account.pw_gid)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PostgresError(
                problem=f"the data directory {self.data_dir} cannot be used ({error})",
                remedy="Set LOOPLEDGER_DATA_DIR to a directory that you may write to; "
                f"or {OWN_POSTGRES}.",
            ) from error


def embedded_dsn(socket_dir: Path) -> str:
    """The URL of an embedded server, by the directory of its socket."""
    host = quote(os.fsencode(socket_dir), safe="/")
    # Port and sslmode are named so that PGPORT and PGSSLMODE are not asked.
    return f"postgresql://{NAME}@/{NAME}?host={host}&port={PORT}&sslmode=disable"


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
