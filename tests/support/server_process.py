"""A server in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from benchmarks.harness.server_process import LoopledgerProcess, clean_environment, free_port
from tests.support import ROOT, loopz_headers
from tests.support.keys import LOCAL_KEYS

COMMANDS = {
    "loopledger serve": [sys.executable, "-m", "commands", "serve"],
    "python server.py": [sys.executable, "server.py"],
    "in the background": [
        "sh",
        "-c",
        """trap "" INT HUP; exec "$0" server.py""",
        sys.executable,
    ],
    "with few files": ["sh", "-c", 'ulimit -n 400; exec "$0" server.py', sys.executable],
}


class ServerProcess(LoopledgerProcess):
    """A Loopledger in a process of its own, with an embedded Postgres, ready."""

    def __init__(
        self,
        data_dir: Path,
        command: str | Sequence[str] = "loopledger serve",
        *,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        checkout: Path = ROOT,
    ) -> None:
        port = free_port()
        super().__init__(
            data_dir,
            data_dir.with_name(f"{data_dir.name}-{port}.log"),
            port=port,
            command=COMMANDS[command] if isinstance(command, str) else command,
            arguments=arguments,
            # Write-ahead log made ahead would take two seconds of every test.
            environ={"LOOPLEDGER_LIMITS_WAL_READY_MIB": "0", **(environ or {})},
            checkout=checkout,
        )
        self.wait_until_ready()
        if (key := self.local_key) is not None:
            LOCAL_KEYS[self.url] = key

    def read_until(self, text: str, seconds: float = 30) -> str:
        """What it has printed, once `text` is in it."""
        deadline = time.monotonic() + seconds
        while text not in (output := self.output()):
            assert self.running, output
            assert time.monotonic() < deadline, output
            time.sleep(0.02)
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

    def workers(self, role: str) -> list[int]:
        """The pids of its workers of this role."""
        children = psutil.Process(self.process.pid).children()
        return [
            child.pid
            for child in children
            if child.status() != psutil.STATUS_ZOMBIE
            and f"--role {role}" in " ".join(child.cmdline())
        ]


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
    """Start a server that is expected to end by itself: not because somebody's own has the default port."""
    return subprocess.run(
        COMMANDS["python server.py"],
        cwd=ROOT,
        env=clean_environment({"LOOPLEDGER_PORT": "0"} | environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
