"""Every command that lists or shows something has --json, and what it prints then is one object."""

import argparse
import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog

import commands
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.citus import make_citus
from tests.support.fake_loopledger import FakeLoopledger
from tests.support.http import eventually
from tests.support.running_commands import Serve

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# What finds nothing to print.
WITHOUT = {("serve",), ("sign",), ("listen",)}

# What needs the main thread, and what prints an object a line: test_simulate.py and test_tail.py have these.
ELSEWHERE = {("simulate",), ("tail",)}

# How each is called; "{url}" is a server's address. Those of the first table ask a fake server, which knows what
# no real one would do at once; those of the second look at real refusals and into a real database.
ASKING: dict[tuple[str, ...], list[str]] = {
    ("projections",): [],
    ("quarantine", "list"): [],
    ("quarantine", "show"): ["transactions", "17"],
    ("rebuild",): ["transactions", "--promote"],
}
LOOKING: dict[tuple[str, ...], list[str]] = {
    ("rejections", "list"): ["--url", "{url}"],
    ("rejections", "show"): ["1", "--url", "{url}"],
    ("rejections", "retry"): ["1", "--url", "{url}"],
    ("keys", "create"): ["--name", "one", "--scope", "read", "--url", "{url}"],
    ("keys", "list"): ["--url", "{url}"],
    ("keys", "revoke"): ["one", "--url", "{url}"],
    ("failover", "show"): [],
    ("failover", "accept"): ["--behind"],
    ("distribute",): ["--dry-run"],
}


def leaves(parser: argparse.ArgumentParser, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its actions, and its parser."""
    actions = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for action in actions:
        for name, each in action.choices.items():
            yield from leaves(each, *names, name)
    if not actions:
        yield names, parser


def every_command() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}
    for name, command in commands.load_commands().items():
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        found.update(leaves(parser, name))
    return found


def test_every_command_has_it_but_those_that_find_nothing() -> None:
    options = {
        names: {option for action in parser._actions for option in action.option_strings}
        for names, parser in every_command().items()
    }
    assert {names for names, known in options.items() if "--json" not in known} == WITHOUT
    assert set(ASKING) | set(LOOKING) | ELSEWHERE == set(options) - WITHOUT


def printed(words: list[str]) -> Any:  # noqa: ANN401 - JSON
    out = _Captured()
    with contextlib.redirect_stdout(out):
        assert commands.main([*words, "--json"]) == 0
    (line,) = out.text.splitlines()
    return json.loads(line)


class _Captured:
    """Standard output that is no terminal."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("names", list(ASKING), ids=" ".join)
async def test_what_asks_a_server_prints_one_object(names: tuple[str, ...], serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    found = await asyncio.to_thread(printed, [*names, *ASKING[names], "--url", fake.url])
    assert isinstance(found, dict)
    if "items" in found:
        assert found["items"]
        assert all(isinstance(item, dict) for item in found["items"])


@pytest.fixture
def quiet() -> Iterator[None]:
    """The server of this process logs to the same screen."""
    with structlog.testing.capture_logs():
        yield


@pytest.mark.usefixtures("quiet")
async def test_what_looks_at_refusals_or_into_the_database_prints_one_object(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        monkeypatch.setenv("LOOPLEDGER_KEY", loopledger.local_key)
        client = Client(session)
        await client.loopz(None, {"id": "l-1"})
        await eventually(client, "/v1/rejections/1")
        for names, arguments in LOOKING.items():
            words = [word.format(url=loopledger.url) for word in arguments]
            if names == ("rejections", "retry"):
                # It names no topic, and never will.
                assert await asyncio.to_thread(commands.main, [*names, *words, "--json"]) == 1
                continue
            if names == ("distribute",):
                await make_citus(connection)
            found = await asyncio.to_thread(printed, [*names, *words])
            assert isinstance(found, dict), names
