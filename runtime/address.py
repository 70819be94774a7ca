"""Where a running server is reached, and the files beside its data that tell commands so, and give them its local key.

The address is in `server.json` in the data directory, the key in `local_keys/<port>.json`, which only its owner can
read. A file counts as long as the process that wrote it runs: a server that was killed leaves its own behind, and its
pid may be another program's by now.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import psutil
import structlog

from eventstore.errors import LoopledgerError
from eventstore.postgres.directory import Directory

logger = structlog.get_logger()

FILE = "server.json"
KEYS = "local_keys"

# Seconds by which two readings of a process's start may differ: psutil derives it from the time of boot.
START_TOLERANCE = 2.0

# What to connect to where a server listens on every address.
THIS_MACHINE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class RunningServer(msgspec.Struct, frozen=True):
    """A server that runs: its address, its process, and when that started, in seconds since 1970."""

    url: str
    pid: int
    started_at: float


class LocalKeyFile(RunningServer, frozen=True):
    """The same, with the key that it made for the commands of its machine: for this server, and for no other."""

    key: str

    def __repr__(self) -> str:
        return f"LocalKeyFile(url={self.url!r}, ...)"


R = TypeVar("R", bound=RunningServer)


def reachable_url(host: str, port: int) -> str:
    """The address by which this machine reaches a server that listens on `host`."""
    host = THIS_MACHINE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listening_url(listener: socket.socket) -> str:
    """The address by which this machine reaches what listens there."""
    host, port = listener.getsockname()[:2]
    return reachable_url(host, port)


def leave_address(data_dir: Path, url: str) -> None:
    """Write down that this process serves at `url`. Raises OSError."""
    running = RunningServer(url, os.getpid(), psutil.Process().create_time())
    new = data_dir / f"{FILE}.new"
    new.unlink(missing_ok=True)
    # Anybody who may enter the directory may know: it holds no secret.
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o644)
        file.write(msgspec.json.encode(running) + b"\n")
    new.rename(data_dir / FILE)


def remove_address(data_dir: Path) -> None:
    """Remove what `leave_address` wrote, if it is there."""
    with suppress(OSError):
        (data_dir / FILE).unlink(missing_ok=True)


@contextmanager
def address_left(data_dir: Path, url: str) -> Iterator[None]:
    """Have commands find this server by its data while it runs."""
    try:
        leave_address(data_dir, url)
    except OSError as error:
        logger.warning(
            "address_not_left",
            message="The server's address could not be written beside its data.",
            error=str(error),
        )
    try:
        yield
    finally:
        remove_address(data_dir)


@contextmanager
def key_left(data_dir: Path, url: str, key: str) -> Iterator[None]:
    """Have commands of this user find the local key of this server while it runs."""
    try:
        leave_key(data_dir, url, key)
    except (OSError, LoopledgerError) as error:
        logger.warning(
            "local_key_not_left",
            message="The local key could not be written to the data directory; commands need one of their own.",
            error=str(error),
        )
    try:
        yield
    finally:
        remove_key(data_dir, url)


def leave_key(data_dir: Path, url: str, key: str) -> None:
    """Write down the local key of this process, which serves at `url`. Raises OSError, PostgresError.

    What servers that run no more have left there is removed.
    """
    # Postgres, which may run as another user, has to pass through the data directory.
    data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    left = LocalKeyFile(url, os.getpid(), psutil.Process().create_time(), key)
    owner, group = os.geteuid(), os.getegid()
    with (
        Directory(data_dir, {0, owner}) as outer,
        outer.make(KEYS, 0o700, owner, group) as directory,
    ):
        for file in sorted((data_dir / KEYS).iterdir()):
            if _read_left(file, LocalKeyFile) is None:
                directory.unlink(file.name)
        text = msgspec.json.encode(left).decode() + "\n"
        directory.write(_key_file(url), text, owner=owner, group=group, wait_for_disk=False)


def remove_key(data_dir: Path, url: str) -> None:
    """Remove what `leave_key` wrote, if it is there."""
    with suppress(OSError):
        (data_dir / KEYS / _key_file(url)).unlink(missing_ok=True)


def find_key(data_dir: Path, url: str) -> LocalKeyFile | None:
    """The local key of the server at `url`, if it runs and left one here; to be sent to the `url` that it names.

    By that alone: `localhost` may lead elsewhere than to the address where it listens.
    """
    wanted = urlsplit(url)
    if wanted.scheme != "http" or wanted.path not in {"", "/"} or wanted.username is not None:
        return None
    left = _read_left(data_dir / KEYS / _key_file(url), LocalKeyFile)
    if left is None:
        return None
    host = urlsplit(left.url).hostname
    names = {host, "localhost"} if host in {"127.0.0.1", "::1"} else {host}
    return left if wanted.hostname in names else None


def _key_file(url: str) -> str:
    return f"{urlsplit(url).port or 80}.json"


def find_running(data_dir: Path) -> RunningServer | None:
    """The server that runs on this data, if one left its address and its process is still there."""
    return _read_left(data_dir / FILE, RunningServer)


def _read_left(path: Path, type_: type[R]) -> R | None:
    """What a server left, if it still runs."""
    with suppress(OSError, msgspec.DecodeError, psutil.Error):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            owner = os.fstat(fd).st_uid
            running = msgspec.json.decode(file.read(), type=type_)
        process = psutil.Process(running.pid)
        since = abs(process.create_time() - running.started_at)
        # Written by the one whom it names.
        if since <= START_TOLERANCE and owner == process.uids().real:
            return running
    return None
