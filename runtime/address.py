"""Where a running server is reached, and the file beside its data that tells commands so.

The file is `server.json` in the data directory. It counts as long as the process that wrote it runs: a server that was
killed leaves one behind, and its pid may be another program's by now.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

FILE = "server.json"

# Seconds by which two readings of a process's start may differ: psutil derives it from the time of boot.
START_TOLERANCE = 2.0

# What to connect to where a server listens on every address.
THIS_MACHINE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class RunningServer(msgspec.Struct, frozen=True):
    """A server that runs: its address, its process, and when that started, in seconds since 1970."""

    url: str
    pid: int
    started_at: float


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


def find_running(data_dir: Path) -> RunningServer | None:
    """The server that runs on this data, if one left its address and its process is still there."""
    with suppress(OSError, msgspec.DecodeError, psutil.Error):
        fd = os.open(data_dir / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            owner = os.fstat(fd).st_uid
            running = msgspec.json.decode(file.read(), type=RunningServer)
        process = psutil.Process(running.pid)
        since = abs(process.create_time() - running.started_at)
        # Written by the one whom it names.
        if since <= START_TOLERANCE and owner == process.uids().real:
            return running
    return None
