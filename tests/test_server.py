"""The server as a process: started, stopped, killed, started again."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from benchmarks.harness.server_process import clean_environment
from runtime.address import find_running
from tests.support import ROOT
from tests.support.server_process import ServerProcess, failed_start, patiently


@pytest.fixture
def serve(data_dir: Path) -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def start(command: str = "loopledger serve") -> ServerProcess:
        servers.append(ServerProcess(data_dir, command))
        return servers[-1]

    yield start
    for server in servers:
        if server.running:
            server.stop()


@pytest.mark.parametrize("command", ["loopledger serve", "python server.py", "with few files"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_server_and_postgres_cleanly_within_five_seconds(
    serve: Callable[..., ServerProcess], command: str, number: int
) -> None:
    server = serve(command)
    server.deliver("l-1")
    began = time.monotonic()
    assert server.stop(number) == 0
    assert time.monotonic() - began < 5
    assert not (server.data_dir / "postgres" / "postmaster.pid").exists()
    assert "Traceback" not in server.output()


def test_signals_ignored_at_the_start_stay_ignored_but_sigterm_stops_it(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve("in the background")
    # It answers a moment before it says so, and only then says that it stops.
    server.read_until("Ctrl-C stops it.")
    for number in (signal.SIGHUP, signal.SIGINT):
        server.process.send_signal(number)
    assert [server.deliver(f"l-{n}") for n in range(20)] == list(range(1, 21))
    assert "stopping" not in server.output()
    assert server.stop(signal.SIGTERM) == 0
    assert "stopping" in server.output()


def test_a_hangup_stops_it(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    server.read_until("Ctrl-C stops it.")
    assert server.stop(signal.SIGHUP) == 0
    assert "stopped" in server.output()


def test_the_start_tells_address_data_and_three_lines_to_try(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    # It answers a moment before it says so.
    output = server.read_until("Ctrl-C stops it.")
    assert server.url in output
    assert str(server.data_dir) in output
    assert output.count("  curl ") == 3


def test_while_it_runs_it_leaves_its_address_beside_its_data(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    server.read_until("Ctrl-C stops it.")
    running = find_running(server.data_dir)
    assert running is not None
    assert (running.url, running.pid) == (server.url, server.process.pid)
    server.stop(signal.SIGKILL)
    assert find_running(server.data_dir) is None
    again = serve()
    again.read_until("Ctrl-C stops it.")
    assert find_running(server.data_dir) is not None
    again.stop()
    assert not (server.data_dir / "server.json").exists()


def test_a_second_start_goes_on_where_the_first_was(serve: Callable[..., ServerProcess]) -> None:
    first = serve()
    assert first.deliver("l-1") == 1
    first.stop()
    second = serve()
    assert second.deliver("l-2") == 2
    page = second.get("/v1/locations?at_least=2")
    assert [item["id"] for item in page["items"]] == ["l-1", "l-2"]


def test_beside_an_older_copy_of_its_data_nothing_is_taken_until_somebody_accepts_it(
    serve: Callable[..., ServerProcess], data_dir: Path
) -> None:
    server = serve()
    assert [server.deliver(f"l-{n}") for n in range(3)] == [1, 2, 3]
    server.stop()
    # Owners and all.
    older = data_dir.with_name(f"{data_dir.name}-older")
    subprocess.run(["/bin/cp", "-a", data_dir / "postgres", older], check=True)
    server = serve()
    assert server.deliver("l-4") == 4
    server.stop()
    (file,) = (data_dir / "known_heads").iterdir()
    assert b'"position":4' in file.read_bytes()
    shutil.rmtree(data_dir / "postgres")
    older.rename(data_dir / "postgres")
    server = serve()
    with pytest.raises(HTTPError, match="503"):
        server.deliver("l-5")
    with pytest.raises(HTTPError, match="503"):
        server.get("/readyz")
    assert "log_behind" in server.output()
    shown = failover(data_dir, "show")
    assert "\nhead 3\naccepted:\n" in shown
    assert "the log goes on after position 3" in failover(data_dir, "accept", "--behind")
    assert patiently(lambda: server.deliver("l-5")) == 4
    told = server.get("/v1/failover")
    assert [one["position"] for one in told["acceptances"]] == [3, 0]
    assert told["timeline"] == told["accepted"] == 1
    assert "events_lost" in server.output()


def failover(data_dir: Path, *words: str) -> str:
    """What `loopledger failover` prints."""
    return subprocess.run(
        [sys.executable, "-m", "commands", "failover", *words],
        cwd=ROOT,
        env=clean_environment({"LOOPLEDGER_DATA_DIR": str(data_dir)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_kill_9_of_server_and_postgres_loses_nothing_acknowledged(
    serve: Callable[..., ServerProcess],
) -> None:
    first = serve()
    acknowledged = [first.deliver(f"l-{n}") for n in range(50)]
    postmaster = first.postmaster_pid()
    first.stop(signal.SIGKILL)
    os.kill(postmaster, signal.SIGKILL)
    second = serve()
    page = second.get("/v1/locations?limit=100&at_least=50")
    assert acknowledged == list(range(1, 51))
    assert len(page["items"]) == 50


def test_kill_9_of_postgres_alone_is_survived_without_a_restart(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    server.deliver("l-1")
    os.kill(server.postmaster_pid(), signal.SIGKILL)
    # A 503 says: come again. As providers and readers do.
    position = patiently(lambda: server.deliver("l-2"))
    page = patiently(lambda: server.get(f"/v1/locations?at_least={position}"))
    assert [item["id"] for item in page["items"]] == ["l-1", "l-2"]


def test_a_second_server_on_the_same_data_is_refused(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve()
    environ = {"LOOPLEDGER_PORT": "0", "LOOPLEDGER_DATA_DIR": str(server.data_dir)}
    second = failed_start(environ)
    assert second.returncode == 1
    assert f"in use by another Loopledger (pid {server.process.pid})" in second.stderr


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"LOOPLEDGER_PORT": "http"}, "port must be a whole number from 0 to 65535, not 'http'"),
        ({"LOOPLEDGER_HOST": "0.0.0.0"}, "Refusing to listen on 0.0.0.0"),  # noqa: S104
        (
            {"LOOPLEDGER_HOST": "192.0.2.7", "LOOPLEDGER_ACCEPT_UNVERIFIED": "true"},
            "Cannot assign requested address. LOOPLEDGER_HOST must be an address of this machine.",
        ),
        (
            {"LOOPLEDGER_RECEIVING_URL": "postgresql:///d"},
            "database_url is missing, but receiving_url is set",
        ),
        ({"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, "no connection to the database"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(environ: dict[str, str], message: str) -> None:
    result = failed_start(environ)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr


def test_a_port_in_use_is_named_before_anything_is_started(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = failed_start({"LOOPLEDGER_PORT": str(port), "LOOPLEDGER_DATA_DIR": str(data_dir)})
    assert result.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use. Is another" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not data_dir.exists()


def test_where_few_files_may_be_open_the_oldest_strangers_give_way_before_none_is_left(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve("with few files")
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        first = stack.enter_context(socket.create_connection(address, timeout=10))
        for _ in range(350):
            stack.enter_context(socket.create_connection(address))
        assert first.recv(100) == b""
        assert server.deliver("l-1") == 1
    assert server.stop() == 0
    output = server.output()
    assert "connections_limited" in output
    assert "connections=300" in output or '"connections": 300' in output


async def test_a_request_under_way_is_finished_before_the_server_stops(
    serve: Callable[..., ServerProcess],
) -> None:
    server = await asyncio.to_thread(serve)
    results = [asyncio.to_thread(server.deliver, f"l-{n}") for n in range(20)]
    gathered = asyncio.gather(*results, return_exceptions=True)
    await asyncio.sleep(0.02)
    code = await asyncio.to_thread(server.stop)
    answered = [result for result in await gathered if isinstance(result, int)]
    again = await asyncio.to_thread(serve)
    page = await asyncio.to_thread(again.get, "/v1/events?limit=100")
    on_record = {event["position"] for event in page["items"]}
    assert code == 0
    assert set(answered) <= on_record
