"""`loopledger failover accept` changes nothing where there is nothing to accept."""

import asyncio
from typing import TYPE_CHECKING

import pytest

import commands
from tests.conftest import StartLoopledger

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def test_accepting_a_timeline_that_is_accepted_is_refused_unless_the_log_is_behind(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)

    async def run(*words: str) -> tuple[int, int]:
        status = await asyncio.to_thread(commands.main, ["failover", "accept", *words])
        return status, await connection.fetchval("SELECT count(*) FROM timelines")

    async with start():
        before = await connection.fetchval("SELECT count(*) FROM timelines")
        assert await run() == (1, before)
        said = capsys.readouterr().err
        assert "is accepted already: there is nothing to accept" in said
        assert "loopledger failover accept --behind" in said
        assert await run("--behind") == (0, before + 1)
