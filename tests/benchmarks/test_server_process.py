"""Servers are launched the same way wherever they are launched from."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.server_process import (
    ROOT,
    ServerProcess,
    StartError,
    clean_environment,
    serve_command,
)

SIGNALS = """
import signal
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL)
"""


@pytest.fixture
def background_job() -> Iterator[None]:
    """This process ignores what a job does that a shell started in the background."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("background_job")
def test_a_server_takes_the_signals_that_its_launcher_ignores(tmp_path: Path) -> None:
    server = ServerProcess([sys.executable, "-c", SIGNALS], tmp_path / "log", port=1)
    assert server.process.wait(30) == 0
    assert server.output() == "True\nTrue\n"


def test_no_setting_of_the_launcher_reaches_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/d")
    monkeypatch.setenv("LOOPLEDGER_WORKERS", "7")
    monkeypatch.setenv("KEPT", "yes")
    environment = clean_environment({"LOOPLEDGER_PORT": "1"})
    ours = {name: value for name, value in environment.items() if name.startswith("LOOPLEDGER_")}
    assert ours == {"LOOPLEDGER_CONFIG": "/dev/null", "LOOPLEDGER_PORT": "1"}
    assert "DATABASE_URL" not in environment
    assert environment["KEPT"] == "yes"


def test_a_server_that_does_not_come_up_is_an_error_with_what_it_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such thing')"]
    server = ServerProcess(command, tmp_path / "log", port=1)
    with pytest.raises(StartError, match="no such thing"):
        server.wait_until_ready()


def test_another_checkout_runs_in_its_own_virtual_environment(tmp_path: Path) -> None:
    assert serve_command(ROOT) == [sys.executable, str(ROOT / "server.py")]
    assert serve_command(tmp_path) == [sys.executable, str(tmp_path / "server.py")]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert serve_command(tmp_path) == [str(python), str(tmp_path / "server.py")]
