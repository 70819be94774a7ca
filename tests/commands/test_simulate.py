"""`loopledger simulate`: summary, progress, exit codes."""

import argparse
import json
import os
import signal
import socket

import pytest
from aiohttp import web

from commands import simulate
from commands._http import find_server
from tests.support.receiving import accept_into, server


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return parser.parse_args(given)


async def simulated(*given: str) -> int:
    """Run the command in the loop of the test, where the test's server runs too."""
    args = arguments(*given)
    return await simulate._simulate(args, find_server(args))


async def test_the_command_exits_with_0_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    async with server(accept_into([])) as url:
        assert await simulated("--url", url, "--deliveries", "50", "--seed", "7") == 0
    out = capsys.readouterr().out
    assert "--seed 7" in out.splitlines()[0]
    assert "accepted" in out
    assert f"curl {url.rstrip('/')}/v1/projections" in out.splitlines()[-1]


async def test_as_json_the_summary_is_all_that_is_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with server(accept_into([])) as url:
        assert await simulated("--url", url, "--deliveries", "50", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["accepted"] == facts["last_position"] == 50
    assert facts["deliveries_per_second"] > 0


async def test_the_command_exits_with_1_if_something_was_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401)

    async with server(refuse) as url:
        assert await simulated("--url", url, "--deliveries", "3") == 1
    out = capsys.readouterr().out
    assert "401" in out
    assert "The server verifies deliveries" in out


def test_the_command_exits_with_2_if_no_server_can_be_reached(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as bound:  # bound but not listening: nothing else can answer there
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert simulate.run(arguments("--url", url)) == 2
    said = capsys.readouterr()
    assert "make run" in said.err
    assert not said.out


async def test_an_interrupted_command_exits_with_130_and_a_partial_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    received: list[tuple[str, bytes]] = []
    accept = accept_into(received)

    async def interrupt_at_fifty(request: web.Request) -> web.StreamResponse:
        if len(received) == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return await accept(request)

    async with server(interrupt_at_fifty) as url:
        assert await simulated("--url", url, "--deliveries", "1000000", "--json") == 130
    assert 0 < json.loads(capsys.readouterr().out)["sent"] < 1_000_000


async def test_off_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "LINE_SECONDS", 0.1)
    async with server(accept_into([])) as url:
        await simulated("--url", url, "--deliveries", "60", "--rate", "200")
    assert "of 60 sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--deliveries", "0"),
        ("--connections", "none"),
        ("--late", "1.1"),
        ("--duplicates", "nan"),
        ("--rate", "0"),
        ("--rate", "fast"),
        ("--url", "localhost:8080"),
        ("--url", "http://127.0.0.1:port"),
    ],
)
def test_a_wrong_argument_is_named(
    wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        arguments(*wrong)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert wrong[0] in said
    assert wrong[1] in said
