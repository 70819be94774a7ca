"""Which server a command talks to, and that it is one."""

import argparse
import contextlib
import json
import os
import socket
from pathlib import Path

import psutil
import pytest
from aiohttp import test_utils, web

import commands
from commands import projections, simulate
from commands._http import NoAddressError, find_server
from eventstore.errors import SettingsError
from runtime.address import FILE, RunningServer, find_running, leave_address, remove_address
from tests.support.fake_loopledger import FakeLoopledger
from tests.support.running_commands import Serve, run_command

UNHEARD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without settings, whose data directory is `data`."""
    for name in list(os.environ):
        if name.startswith("LOOPLEDGER_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LOOPLEDGER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def found(url: str | None = None) -> tuple[str, str]:
    return find_server(argparse.Namespace(url=url, key=None))[:2]


@pytest.mark.parametrize(
    ("environ", "url", "source"),
    [
        ({"LOOPLEDGER_PORT": "9000"}, "http://127.0.0.1:9000", "LOOPLEDGER_PORT"),
        ({"LOOPLEDGER_HOST": "0.0.0.0"}, "http://127.0.0.1:8080", "LOOPLEDGER_HOST"),  # noqa: S104
        ({"LOOPLEDGER_HOST": "::", "LOOPLEDGER_PORT": "1"}, "http://[::1]:1", "LOOPLEDGER_PORT"),
        ({"LOOPLEDGER_URL": "https://a.test/"}, "https://a.test", "LOOPLEDGER_URL"),
    ],
)
def test_a_command_finds_the_server_where_the_settings_put_it(
    environ: dict[str, str], url: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert found()[0] == url
    assert source in found()[1]


def test_each_way_to_name_a_server_wins_over_those_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found()[0] == "http://127.0.0.1:8080"
    assert f"no server runs on the data in {tmp_path / 'data'}" in found()[1]
    leave_address(tmp_path / "data", "http://127.0.0.1:4")
    assert found() == (
        "http://127.0.0.1:4",
        f"where the server on the data in {tmp_path / 'data'} listens",
    )
    monkeypatch.setenv("LOOPLEDGER_PORT", "0")
    assert found()[0] == "http://127.0.0.1:4"
    monkeypatch.delenv("LOOPLEDGER_PORT")
    (tmp_path / "loopledger.toml").write_text("port = 3\n")
    assert found() == ("http://127.0.0.1:3", "from loopledger.toml")
    monkeypatch.setenv("LOOPLEDGER_PORT", "2")
    assert found()[0] == "http://127.0.0.1:2"
    monkeypatch.setenv("LOOPLEDGER_URL", "http://127.0.0.1:1")
    assert found()[0] == "http://127.0.0.1:1"
    assert found(UNHEARD) == (UNHEARD, "given by --url")


def test_where_any_port_is_taken_and_no_server_runs_a_command_asks_for_the_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOOPLEDGER_PORT", "0")
    with pytest.raises(NoAddressError, match="give its address with --url"):
        found()


def test_an_address_that_is_none_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLEDGER_URL", "localhost:8080")
    with pytest.raises(SettingsError, match="url must be the address of a server"):
        found()


def test_what_a_server_that_was_killed_left_behind_counts_for_nothing(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        leave_address(tmp_path, UNHEARD)
    finally:
        os.umask(umask)
    assert find_running(tmp_path) is not None
    # Whoever may enter the directory may read it.
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o644
    # Its pid is another process's by now, or nobody's.
    started_at = psutil.Process().create_time()
    for pid, since in ((os.getpid(), started_at - 100), (2**22 + 1, started_at)):
        left = RunningServer(UNHEARD, pid, since)
        facts = {name: getattr(left, name) for name in left.__struct_fields__}
        (tmp_path / FILE).write_text(json.dumps(facts))
        assert find_running(tmp_path) is None
    for broken in ("", "[]", '{"url": 1}'):
        (tmp_path / FILE).write_text(broken)
        assert find_running(tmp_path) is None
    remove_address(tmp_path)
    assert find_running(tmp_path) is None


def test_an_address_is_not_read_through_a_link(tmp_path: Path) -> None:
    leave_address(tmp_path / "data", UNHEARD)
    (tmp_path / FILE).symlink_to(tmp_path / "data" / FILE)
    assert find_running(tmp_path) is None


def test_where_no_server_answers_a_command_says_where_it_looked_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("LOOPLEDGER_PORT", str(port))
        assert commands.main(["projections"]) == 2
    error = capsys.readouterr().err
    assert f"No server answers at http://127.0.0.1:{port}, from" in error
    assert "LOOPLEDGER_PORT" in error


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response({"status": "ok"}),
        web.json_response({"status": "ok", "server": "another"}),
        web.Response(text="<html>"),
        web.Response(status=404),
        web.Response(status=302, headers={"Location": "/login"}),
    ],
    ids=["no name", "another name", "a page", "404", "a redirection"],
)
async def test_another_service_on_the_port_gets_nothing_that_is_not_meant_for_it(
    answer: web.Response, capsys: pytest.CaptureFixture[str]
) -> None:
    requests: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        requests.append(f"{request.method} {request.path}")
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with test_utils.TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        given = argparse.Namespace(url=url)
        code, _, error = await run_command(projections, url)
        assert await simulate._simulate(given, find_server(given)) == code == 2
    assert set(requests) == {"GET /healthz"}
    assert f"What answers at {url}, given by --url, is not Loopledger" in error
    assert "is not Loopledger" in capsys.readouterr().err


async def test_a_server_is_looked_at_once_for_all_that_is_sent_to_it(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, out, _ = await run_command(projections, fake.url)
    assert code == 0
    assert "transactions" in out
