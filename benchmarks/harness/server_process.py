"""Servers in processes of their own: launched, waited for, stopped. Benchmarks, torture and tests launch them here."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from runtime.address import find_key

ROOT = Path(__file__).parents[2]

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.02

# A shell has the jobs that it starts in the background ignore Ctrl-C, and what they start inherits that: undone by a
# program between them, because `preexec_fn` of Popen is not safe beside threads.
DEFAULT_SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class StartError(Exception):
    """A server ended, or did not answer in time; with what it printed."""


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def clean_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process without any setting of Loopledger, then `changes`.

    No `loopledger.toml` of the current directory is read either.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith("LOOPLEDGER_")
    }
    return {**kept, "LOOPLEDGER_CONFIG": os.devnull, **(changes or {})}


def serve_command(checkout: Path = ROOT) -> list[str]:
    """The command `python server.py` of a checkout, by its own virtual environment if it has one."""
    own = checkout / ".venv" / "bin" / "python"
    python = sys.executable if checkout == ROOT or not own.exists() else str(own)
    return [python, str(checkout / "server.py")]


def postmaster_pid(data_dir: Path) -> int:
    """The pid of the Postgres of a data directory. Raises OSError, ValueError or IndexError if none runs."""
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


class ServerProcess:
    """A program that serves HTTP at a port of 127.0.0.1. It prints to the file `log`.

    It has signals as a terminal would give them, and a session of its own: a Ctrl-C reaches only its launcher.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        port: int,
        environ: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        # What answers once it is ready: here, when its projections have caught up.
        self.ready_path = "/healthz/projections"
        with log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 - programs of this project
                [sys.executable, "-ISc", DEFAULT_SIGNALS, *command],
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text("utf-8", "replace")

    def wait_until_ready(self) -> None:
        """Return once it answers. Raises StartError, and then it does not run any more."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.running:
            if self._is_ready():
                return
            time.sleep(LOOK_SECONDS)
        self.stop(signal.SIGKILL)
        message = f"a server did not come up: {self.output()}"
        raise StartError(message)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}{self.ready_path}", timeout=10):  # noqa: S310 - our own address
                return True
        except HTTPError as error:
            # A server without that page is one that answers.
            return error.code < 500  # noqa: PLR2004
        except (URLError, OSError):
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and SIGKILL if that does not end it in time; gives back its exit code."""
        self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(STOP_SECONDS)
        self.process.kill()
        return self.process.wait()


class LoopledgerProcess(ServerProcess):
    """A Loopledger of some checkout, whose data lies in `data_dir`; `environ` may add to its settings.

    `command` replaces `python server.py`; `arguments` follow it.
    """

    def __init__(  # noqa: PLR0913 - each is named where it is given
        self,
        data_dir: Path,
        log: Path,
        *,
        port: int | None = None,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        checkout: Path = ROOT,
    ) -> None:
        port = free_port() if port is None else port
        self.data_dir = data_dir
        settings = {"LOOPLEDGER_PORT": str(port), "LOOPLEDGER_DATA_DIR": str(data_dir)}
        super().__init__(
            [*(command or serve_command(checkout)), *arguments],
            log,
            port=port,
            environ=clean_environment({**settings, **(environ or {})}),
            cwd=checkout,
        )

    @property
    def local_key(self) -> str | None:
        """The key that it made for commands; None if its checkout knows none."""
        left = find_key(self.data_dir, self.url)
        return None if left is None else left.key

    def postmaster_pid(self) -> int:
        """The pid of its embedded Postgres. Raises OSError, ValueError or IndexError if none runs."""
        return postmaster_pid(self.data_dir)
