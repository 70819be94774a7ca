"""The server under torture, and a service manager that starts it again whenever it is gone."""

import asyncio
import contextlib
import random
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import psutil

from benchmarks.harness.server_process import LoopledgerProcess, postmaster_pid
from eventstore.postgres.cluster import embedded_dsn
from eventstore.postgres.roles import ADMIN

WATCH_SECONDS = 0.02
# How long the service manager that we play waits before it starts the server again.
RESTART_SECONDS = (0.0, 0.5)
# How long a clean stop may take.
STOP_SECONDS = 15.0
# How long processes that lost their parent may take to notice and to finish what they have.
LINGER_SECONDS = 10.0

# Ports that no client is given: while the server is down, a client could have its port, and be connected to itself.
PORTS = range(20_000, 30_000)

_TIME = re.compile(r"\d{4}-\d\d-\d\d")

# Of the workers so many append: the others hand theirs over, and have to settle what one had that is killed.
APPENDERS = 1

# "appending" is an HTTP process that appends for others too.
Role = Literal["parent", "http", "appending", "projecting", "postmaster", "postgres", "other"]


class Member(NamedTuple):
    """A process of the server."""

    process: psutil.Process
    role: Role


def _free_port() -> int:
    """A port of PORTS that is free now."""
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    message = f"no port from {PORTS.start} to {PORTS.stop} is free"
    raise OSError(message)


class _Line(msgspec.Struct):
    """As much of a line of the server's log as is counted."""

    level: str
    event: str


class Target:
    """A Loopledger of several processes below `directory`, with an embedded Postgres or over `database_url`.

    `settings` are further variables of its environment.
    """

    def __init__(
        self,
        directory: Path,
        *,
        workers: int,
        seed: int,
        database_url: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._random = random.Random(f"target {seed}")  # noqa: S311 (seeded on purpose)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = directory / "data"
        self.embedded = database_url is None
        self.dsn = database_url or embedded_dsn(self.data_dir, ADMIN)
        self.starts = 0
        # Starts that ended by themselves, by what they said last.
        self.failed_starts: Counter[str] = Counter()
        self._logs = directory / "logs"
        self._logs.mkdir()
        self._workers = workers
        self._settings = settings or {}
        self._server: LoopledgerProcess | None = None
        # Everything that was ever seen of it, by pid.
        self._seen: dict[int, psutil.Process] = {}

    async def stay_up(self) -> None:
        """Start the server, and again whenever it is gone; until cancelled."""
        while True:
            server = self._server
            if server is None or not server.running:
                if server is not None:
                    self._note_end(server)
                    await asyncio.sleep(self._random.uniform(*RESTART_SECONDS))
                self._start()
            await asyncio.sleep(WATCH_SECONDS)

    def family(self) -> list[Member]:
        """Every process that is the server's now, whoever started it and whether its parent still lives."""
        found = []
        postmaster = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            postmaster = postmaster_pid(self.data_dir)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if self._is_ours(process):
                    found.append(Member(process, self._role(process, postmaster)))
                    self._seen[process.pid] = process
        return found

    async def stop(self) -> str | None:
        """Stop it cleanly; gives back what was not clean, if anything."""
        if self._server is None or not self._server.running:
            return "there is no server to stop"
        self.family()
        process = self._server.process
        process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return f"still running {STOP_SECONDS:g} s after SIGTERM"
        if status != 0:
            return f"it ended with status {status} after SIGTERM"
        if (self.data_dir / "postgres" / "postmaster.pid").exists():
            return "it left postmaster.pid behind"
        return None

    async def orphans(self) -> list[str]:
        """Name the processes that outlive the stopped server."""
        deadline = time.monotonic() + LINGER_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.1)
        return left

    def end(self) -> None:
        """Kill whatever is left of it."""
        deadline = time.monotonic() + LINGER_SECONDS
        while (members := self.family()) and time.monotonic() < deadline:
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.process.kill()
            time.sleep(WATCH_SECONDS)
        if self._server is not None:
            self._server.process.wait()

    def logged(self) -> Counter[str]:
        """Count what the server said from level error on, tracebacks, and panics of Postgres."""
        counts: Counter[str] = Counter()
        for file in sorted(self._logs.iterdir()):
            for line in file.read_bytes().splitlines():
                try:
                    said = msgspec.json.decode(line, type=_Line)
                except msgspec.DecodeError:
                    if line.startswith((b"Traceback", b"ERROR:", b"CRITICAL:")):
                        counts[line.decode(errors="replace")[:100]] += 1
                    continue
                if said.level in {"error", "critical"}:
                    counts[f"{said.level}: {said.event}"] += 1
        for file in self.data_dir.glob("postgres.log*"):
            counts["panic"] += file.read_bytes().count(b"PANIC:")
        return +counts

    def _start(self) -> None:
        self.starts += 1
        self._server = LoopledgerProcess(
            self.data_dir,
            self._log(self.starts),
            port=self.port,
            arguments=["--workers", str(self._workers)],
            environ={
                "LOOPLEDGER_LOG_FORMAT": "json",
                "LOOPLEDGER_LIMITS_WAL_READY_MIB": "0",
                "LOOPLEDGER_LIMITS_APPENDERS": str(APPENDERS),
                **self._settings,
                **({} if self.embedded else {"DATABASE_URL": self.dsn}),
            },
        )

    def _note_end(self, server: LoopledgerProcess) -> None:
        status = server.process.returncode
        if status == -signal.SIGKILL:
            return
        lines = server.output().strip().splitlines()
        said = lines[-1] if lines else "nothing"
        # The times in it would make each one of its kind.
        self.failed_starts[f"status {status}: {_TIME.split(said)[0][:200]}"] += 1

    def _log(self, start: int) -> Path:
        return self._logs / f"server-{start:04}.log"

    def _is_ours(self, process: psutil.Process) -> bool:
        """By what it was told, or by where it works: Postgres is told nothing, and stays where its data lies."""
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get("LOOPLEDGER_DATA_DIR") == str(self.data_dir):
            return True
        return Path(process.cwd()).is_relative_to(self.data_dir)

    def _role(self, process: psutil.Process, postmaster: int | None) -> Role:
        if self._server is not None and process.pid == self._server.process.pid:
            return "parent"
        if process.name() == "postgres":
            return "postmaster" if process.pid == postmaster else "postgres"
        command = process.cmdline()
        if "--role" not in command:
            # A child between fork and exec, initdb, a parent that was replaced.
            return "other"
        if command[command.index("--role") + 1] != "http":
            return "projecting"
        return "appending" if "--append-for" in command else "http"

    def _left(self) -> list[str]:
        self.family()
        left = []
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"pid {process.pid}: {process.name()}")
        return left
