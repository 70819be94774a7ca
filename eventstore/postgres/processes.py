"""Processes of Postgres: the account they run as, how they start and end, and which still run."""

import contextlib
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import psutil
import structlog

from eventstore.errors import PostgresError

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

# Seconds between checks that a process is still there.
WATCH_SECONDS: Final = 0.1

OWN_POSTGRES: Final = "set DATABASE_URL to a Postgres of your own, 15 or newer"

# Nothing is inherited: PG* variables would change the server, secrets would show in its
# environment. LC_ALL also keeps macOS from starting threads inside the postmaster.
ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}

# The account that Postgres runs as; None is our own.
Account: TypeAlias = pwd.struct_passwd | None


# Which of these runs Postgres if we are root: whoever has before, or else the first that there is.
ACCOUNTS: Final = ("loopledger", "nobody")


def account_for(run_as: str | None, pgdata: Path) -> Account:
    """The account that Postgres runs as: our own, or if we are root that of `run_as`, or one of ACCOUNTS.

    Raises PostgresError.
    """
    if os.geteuid() != 0:
        return None
    found = [entry for name in ([run_as] if run_as else ACCOUNTS) if (entry := _unprivileged(name))]
    with contextlib.suppress(OSError):
        owner = pgdata.lstat().st_uid
        found.sort(key=lambda entry: entry.pw_uid != owner)
    if found:
        return found[0]
    raise PostgresError(
        problem="it refuses to run as root, and there is no unprivileged user "
        f"{run_as or ACCOUNTS[-1]!r}",
        remedy=f"Run Loopledger as an ordinary user; or {OWN_POSTGRES}.",
    )


def _unprivileged(name: str) -> Account:
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(name)
        if entry.pw_uid != 0:
            return entry
    return None


def postgres_in(directory: Path) -> list[psutil.Process]:
    """List the Postgres processes that work in `directory`: the only reliable proof.

    A pid file outlives its process, and its pid may belong to anyone by now. The name is asked for
    because a person's shell may stand in the directory too; /proc, because the path that it gives
    may be one of another container.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() in {"postgres", "initdb"}:
                cwd = f"/proc/{process.pid}/cwd" if psutil.LINUX else process.cwd()
                if directory.samefile(cwd):
                    found.append(process)
    return found


def pid_in(file: Path) -> int | None:
    """Read the pid in a pid file; None if there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(file.read_text().splitlines()[0])
    return None


def path_to(directory: Path) -> list[Path]:
    """List the directories from the root to `directory`."""
    return [*reversed(directory.parents), directory]


def spawn(
    account: Account, command: list[str | Path], cwd: Path, output: int
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that a Ctrl-C in the terminal reaches only us."""
    return subprocess.Popen(  # noqa: S603 - our own binaries, no shell reads the arguments
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        user=account and account.pw_uid,
        group=account and account.pw_gid,
        extra_groups=account and [],
        umask=0o077,
        start_new_session=True,
    )


def run(account: Account, command: list[str | Path], cwd: Path) -> tuple[int, str]:
    """Run a command to its end; gives its exit status and output."""
    with spawn(account, command, cwd, subprocess.PIPE) as process:
        output, _ = process.communicate()
    return process.returncode, os.fsdecode(output).strip()


def end(process: subprocess.Popen[bytes], stop_seconds: float) -> None:
    """Ask for a fast shutdown, then for an immediate one, then kill it; wait for the end."""
    steps = ((signal.SIGINT, stop_seconds), (signal.SIGQUIT, 2.0), (signal.SIGKILL, None))
    for step, seconds in steps:
        process.send_signal(step)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def first_unreachable(account: Account, way: Iterable[Path]) -> str | None:
    """If we are root, give the first of these that Postgres's user may not enter, or run; None if there is none.

    The user itself is asked, by a shell: permission bits tell nothing of access lists.
    """
    script = 'for each do [ -x "$each" ] || { printf %s "$each"; exit 1; }; done'
    if account is None:
        return None
    status, barred = run(account, ["/bin/sh", "-c", script, "sh", *way], Path("/"))
    return barred if status != 0 else None


def check_reachable(account: Account, way: Iterable[Path]) -> None:
    """Raise PostgresError if we are root, and Postgres's user may not enter one of these directories."""
    if account is not None and (barred := first_unreachable(account, way)) is not None:
        refuse_unreachable(account, barred)


def refuse_unreachable(account: pwd.struct_passwd, barred: str) -> NoReturn:
    """Raise PostgresError, naming the directory that Postgres's user may not enter."""
    raise PostgresError(
        problem=f"as root, Postgres runs as the user {account.pw_name}, who may not enter {barred}",
        remedy="Set LOOPLEDGER_DATA_DIR to a directory that this user may enter, for example below "
        f"/var/lib; or run Loopledger as an ordinary user; or {OWN_POSTGRES}.",
    )


def end_leftovers(directory: Path, stopping: threading.Event) -> None:
    """End every Postgres process that works in `directory`; only the flock's holder may.

    A postmaster is asked to shut down. Its orphans end by themselves once they look up: SIGINT
    would make an orphaned checkpointer declare a clean shutdown while others still write.
    """
    steps = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 5.0))
    for step, seconds in steps:
        left = postgres_in(directory)
        if not left:
            return
        logger.warning(
            "leftover_postgres",
            message="Stopping a Postgres that an earlier server left running.",
            pids=[each.pid for each in left],
        )
        postmaster = pid_in(directory / "postmaster.pid")
        for each in left:
            if step != signal.SIGINT or each.pid == postmaster:
                with contextlib.suppress(psutil.Error):
                    each.send_signal(step)
        deadline = time.monotonic() + seconds
        while postgres_in(directory) and time.monotonic() < deadline:
            if stopping.wait(WATCH_SECONDS):
                return
    if postgres_in(directory):
        raise PostgresError(
            problem=f"processes of an earlier Postgres still work in {directory}",
            remedy="They do not end even when killed: the disk may hang. Restart the machine.",
        )
