"""A server in a process of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from tests.support import ROOT, loopz_headers

COMMANDS = {
    "loopledger serve": [sys.executable, "-m", "commands", "serve"],
    "python server.py": [sys.executable, "server.py"],
    "with few files": ["sh", "-c", 'ulimit -n 400; exec "$0" server.py', sys.executable],
}


class ServerProcess:
    """A Loopledger in a process of its own, with an embedded Postgres."""

    def __init__(
        self,
        data_dir: Path,
        command: str = "loopledger serve",
        *,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        environment = {
            **{k: v for k, v in os.environ.items() if k != "DATABASE_URL"},
            "LOOPLEDGER_PORT": str(self.port),
            "LOOPLEDGER_DATA_DIR": str(data_dir),
            **(environ or {}),
        }
        self.process = subprocess.Popen(
            [*COMMANDS[command], *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(URLError, ConnectionError):
                self.get("/readyz")
                return
            time.sleep(0.05)
        self.process.kill()
        message = f"the server did not come up: {self.process.communicate()[0]}"
        raise AssertionError(message)

    def read_until(self, text: str) -> str:
        """What it prints, up to the line that holds `text`."""
        output = ""
        while self.process.stdout is not None and text not in output:
            line = self.process.stdout.readline()
            assert line, output
            output += line
        return output

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever it is, the test knows
        """GET, as JSON."""
        return self._send(Request(self.url + path))  # noqa: S310 - our own address

    def deliver(self, id_: str) -> int:
        """Deliver a location; gives back its position."""
        answer = self._send(
            Request(  # noqa: S310 - our own address
                f"{self.url}/webhooks/loopz",
                data=json.dumps({"id": id_}).encode(),
                headers=loopz_headers("location.updated"),
            )
        )
        return int(answer["position"])

    def _send(self, request: Request) -> Any:  # noqa: ANN401
        with urlopen(request, timeout=10) as response:  # noqa: S310 - our own address
            return json.load(response)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; gives back the exit code and what was printed."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output

    def workers(self, role: str) -> list[int]:
        """The pids of its workers of this role."""
        children = psutil.Process(self.process.pid).children()
        return [
            child.pid
            for child in children
            if child.status() != psutil.STATUS_ZOMBIE
            and f"--role {role}" in " ".join(child.cmdline())
        ]

    def postmaster_pid(self) -> int:
        """The pid of its Postgres."""
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def patiently(ask: Callable[[], Any], seconds: float = 30) -> Any:  # noqa: ANN401 - whatever is asked
    """Ask again for as long as a server is away or says that it will be back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def failed_start(environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Start a server that is expected to end by itself."""
    return subprocess.run(
        COMMANDS["python server.py"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
