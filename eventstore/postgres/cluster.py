"""The files of an embedded Postgres: a data directory, taken by a lock, with a cluster and a socket in it.

Below the data directory lie `postgres/` (the cluster), `postgres.log`, `lock`, `passwords/` (a file for each role) and,
where that path is short enough, `socket/`. Whoever holds the flock on `lock` owns all of it, processes included.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from eventstore.errors import PostgresError
from eventstore.postgres.binaries import MAJOR, binaries_for
from eventstore.postgres.directory import Directory
from eventstore.postgres.processes import (
    OWN_POSTGRES,
    Account,
    account_for,
    check_reachable,
    end_leftovers,
    path_to,
    run,
    spawn,
)
from eventstore.postgres.roles import ADMIN, NAME, ROLES, new_password, password_line
from eventstore.postgres.server_settings import (
    INITDB_OPTIONS,
    LEAST_WAL_MIB,
    PORT,
    SERVER_SETTINGS,
    shared_buffers_mib,
)

# sun_path holds 104 bytes on macOS, 108 on Linux, the closing NUL included.
SOCKET_BYTES: Final = 103
LOG_BYTES: Final = 10 * 1024 * 1024
TAIL_LINES: Final = 10

# The share of the disk's free room that write-ahead log made ahead may take.
WAL_SHARE: Final = 20

# What may lie in the data directory.
ENTRIES: Final = frozenset(
    {
        *(
            "known_heads",
            "local_keys",
            "lock",
            "passwords",
            "postgres",
            "postgres.log",
            "postgres.log.1",
            "postgres.new",
            "socket",
        ),
        # Where a server is reached (runtime/address.py).
        *("server.json", "server.json.new"),
    }
)

# Who may log in: whoever knows the password of a role. While roles and passwords are made, only the superuser may, and
# only if the operating system says that it is us.
LOGIN_RULES: Final = """# Loopledger wrote this, and writes it again.
local all all scram-sha-256
local replication all scram-sha-256
"""
SET_UP_RULES: Final = f"local all {ADMIN} peer map={NAME}\n"


class Cluster:
    """One data directory: ours, with a cluster of our major version in it, from `take` to `release`.

    `run_as` is the existing unprivileged user that Postgres runs as if we are root; None is `loopledger` or `nobody`.
    `group` is the one besides whose members can reach the socket. `wal_ready_mib` is how much write-ahead log it keeps
    ready ahead, if the disk is large enough. Its methods block, and raise PostgresError.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        run_as: str | None,
        group: int | None,
        max_connections: int,
        wal_ready_mib: int,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.pgdata = self.data_dir / "postgres"
        self.log_file = self.data_dir / "postgres.log"
        # None while the data directory is not ours.
        self.socket_dir: Path | None = None
        self._run_as = run_as
        self._group = group
        self._max_connections = max_connections
        self._wal_ready_mib = wal_ready_mib
        # What a password file says, by role.
        self._passwords: dict[str, str] = {}
        self._account: Account = None
        self._directory: Directory | None = None
        self._lock: int | None = None
        self._log_start = 0

    @property
    def taken(self) -> bool:
        """Whether the data directory is ours."""
        return self._lock is not None

    @property
    def wal_ready_mib(self) -> int:
        """How much write-ahead log is to be ready ahead: what was asked for, if the disk has room for much more."""
        free = shutil.disk_usage(self.pgdata).free // 2**20
        return min(self._wal_ready_mib, free // WAL_SHARE)

    def take(self, stopping: threading.Event) -> None:
        """Take the data directory and see that a cluster of our major version is in it."""
        with self._disk_errors():
            self._account = account_for(self._run_as, self.pgdata)
            self._binaries = binaries_for(self._account)
            self._check_binaries()
            self._make_data_dir()
            self._directory = self._open_data_dir()
            self._lock = _lock(self._directory)
            self.socket_dir = self._choose_socket_dir()
            self._make_cluster(stopping)
            self._make_passwords()

    def release(self) -> None:
        """Give the data directory back."""
        if self.socket_dir is not None and self.socket_dir.parent != self.data_dir:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
        self.socket_dir = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def start_postmaster(self, stopping: threading.Event) -> subprocess.Popen[bytes]:
        """End what an earlier server left, then start a postmaster."""
        with self._disk_errors():
            end_leftovers(self.pgdata, stopping)
            if stopping.is_set() or self.socket_dir is None:
                raise PostgresError(problem="it is being stopped", remedy="Start it again.")
            with self._open_pgdata() as pgdata:
                # Postgres trusts any live process with the pid in these files, be it another program.
                pgdata.unlink("postmaster.pid")
            if not self.is_set_up:
                self.let_in(None, set_up=True)
            self._make_socket_dir()
            directory = self._opened
            output = directory.open("postgres.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                if os.fstat(output).st_size > LOG_BYTES:
                    directory.rename("postgres.log", "postgres.log.1")
                    os.close(output)
                    output = directory.open("postgres.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                self._log_start = os.fstat(output).st_size
                return spawn(self._account, self._command(), Path("/"), output)
            finally:
                os.close(output)

    def _command(self) -> list[str | Path]:
        settings = SERVER_SETTINGS | {
            "unix_socket_directories": f'"{self.socket_dir}"',
            # Its directory tells who may come near, and a password who may enter.
            "unix_socket_permissions": "0700" if self._group is None else "0777",
            "max_connections": str(self._max_connections),
            "shared_buffers": f"{shared_buffers_mib()}MB",
            "min_wal_size": f"{max(self.wal_ready_mib, LEAST_WAL_MIB)}MB",
        }
        command: list[str | Path] = [self._binaries / "postgres", "-D", self.pgdata]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    @property
    def is_set_up(self) -> bool:
        """Whether the roles have the passwords that we know, and nobody is let in without one."""
        with self._open_pgdata() as pgdata:
            return pgdata.read("pg_hba.conf") == LOGIN_RULES

    @property
    def passwords(self) -> dict[str, str]:
        """The passwords of the roles, by their names."""
        return self._passwords

    def let_in(self, process: "subprocess.Popen[bytes] | None", *, set_up: bool) -> None:
        """Let in whoever knows a password; or, for `set_up`, nobody but the superuser, by who we are."""
        with self._disk_errors(), self._open_pgdata() as pgdata:
            owner, group = self._owner
            user = pwd.getpwuid(os.geteuid()).pw_name
            mapping = f'{NAME} "{user}" {ADMIN}\n' if set_up else ""
            pgdata.write("pg_ident.conf", mapping, owner=owner, group=group)
            rules = SET_UP_RULES if set_up else LOGIN_RULES
            pgdata.write("pg_hba.conf", rules, owner=owner, group=group)
        if process is not None:
            process.send_signal(signal.SIGHUP)

    def log_tail(self) -> str:
        """The last lines that the postmaster logged, in one."""
        with os.fdopen(self._opened.open("postgres.log", os.O_RDONLY), "rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return " / ".join(lines[-TAIL_LINES:]) or "it logged nothing"

    @property
    def _opened(self) -> Directory:
        if self._directory is None:
            raise PostgresError(problem="it is being stopped", remedy="Start it again.")
        return self._directory

    @property
    def _owner(self) -> tuple[int, int]:
        """The uid and gid that Postgres runs as."""
        if self._account is None:
            return os.geteuid(), os.getegid()
        return self._account.pw_uid, self._account.pw_gid

    def _open_pgdata(self) -> Directory:
        return self._opened.enter(self.pgdata.name)

    def _open_data_dir(self) -> Directory:
        """Open the data directory. Raises PostgresError if something in it is a stranger's, or may be."""
        ours = {os.geteuid(), self._owner[0]}
        found = Directory(self.data_dir, ours)
        try:
            # Root may have made it for whoever we are; what is in it, we made.
            found.check_owner({0, *ours})
            found.check_entries(ENTRIES)
        except BaseException:
            found.close()
            raise
        return found

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
        if self._opened.exists("postgres.new"):
            end_leftovers(new, stopping)
            shutil.rmtree(new)
        if self._opened.exists("postgres"):
            with self._open_pgdata() as old:
                found = (old.read("PG_VERSION") or "").strip()
            if found and found != str(MAJOR):
                raise PostgresError(
                    problem=f"{self.pgdata} was written by Postgres {found}, "
                    f"and the embedded server is Postgres {MAJOR}",
                    remedy=f"Use pg_upgrade, or pg_dump of Postgres {found} into a new "
                    "LOOPLEDGER_DATA_DIR; "
                    f"or set DATABASE_URL to a running Postgres {found}.",
                )
            if found:
                return
        owner, group = self._owner
        self._opened.make("postgres.new", 0o700, owner, group).close()
        status, output = run(
            self._account, [self._binaries / "initdb", *INITDB_OPTIONS, "-D", new], new
        )
        if status != 0:
            shutil.rmtree(new)
            raise PostgresError(
                problem=f"initdb ended with status {status}: {output}",
                remedy=f"See that {self.data_dir} is on a writable disk with 100 MB to spare.",
            )
        self._opened.rename("postgres.new", "postgres")
        self._opened.sync()

    def _make_passwords(self) -> None:
        """Read the passwords of the roles; make those that are missing, and have them set."""
        directory = self._opened.make("passwords", 0o700, os.geteuid(), os.getegid())
        with directory:
            for role in (ADMIN, *ROLES):
                line = directory.read(role) or ""
                password = line.strip().rpartition(":")[2]
                if line != password_line(role, password):
                    password = new_password()
                    # First, so that a crash between the two leads to the same again.
                    self.let_in(None, set_up=True)
                    line = password_line(role, password)
                    directory.write(role, line, owner=os.geteuid(), group=os.getegid())
                self._passwords[role] = password

    def _make_socket_dir(self) -> None:
        """Make the directory of the socket, and remove what an earlier server left in it."""
        if self.socket_dir is None:
            return
        owner, group = self._owner
        mode = 0o700 if self._group is None else 0o710
        if self.socket_dir.parent == self.data_dir:
            directory = self._opened.make("socket", mode, owner, self._group or group)
        else:
            # It has a name that nobody could foresee, and is nobody's but ours.
            directory = Directory(self.socket_dir, {os.geteuid(), owner})
            directory.set_access(mode, owner, self._group or group)
        with directory:
            for each in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
                directory.unlink(each)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PostgresError(
                problem=f"the data directory {self.data_dir} cannot be used ({error.strerror or error})",
                remedy="Set LOOPLEDGER_DATA_DIR to a directory that you may write to; "
                f"or {OWN_POSTGRES}.",
            ) from error


def embedded_dsn(data_dir: Path, role: str, socket_dir: Path | None = None) -> str:
    """The URL of an embedded server for a role; the password is not in it, but where it is."""
    host = quote(os.fsencode(socket_dir or data_dir / "socket"), safe="/")
    passfile = quote(os.fsencode(data_dir / "passwords" / role), safe="/")
    # Port and sslmode are named so that PGPORT and PGSSLMODE are not asked.
    return (
        f"postgresql://{role}@/{NAME}?host={host}&port={PORT}&sslmode=disable&passfile={passfile}"
    )


def _lock(directory: Directory) -> int:
    """Take the lock of the data directory; the file descriptor holds it, no child inherits it."""
    lock = directory.open("lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        pid = os.pread(lock, 20, 0).decode().strip()
        os.close(lock)
        raise PostgresError(
            problem=f"{directory.path} is in use by another Loopledger (pid {pid})",
            remedy="Stop that one first, or set LOOPLEDGER_DATA_DIR to another directory.",
        ) from error
    return lock
