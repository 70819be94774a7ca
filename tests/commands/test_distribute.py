"""`loopledger distribute`: what it prints, and where it refuses."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from commands import main
from tests.support.citus import calls, make_citus

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def test_it_distributes_and_prints_what_it_did(
    dsn: str,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    await make_citus(connection)
    assert await asyncio.to_thread(main, ["distribute", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "SELECT create_distributed_table('events', 'stream'" in planned
    assert await calls(connection) == []
    assert await asyncio.to_thread(main, ["distribute"]) == 0
    done = capsys.readouterr().out
    assert done.startswith(planned)
    assert done.endswith("are distributed. Start the servers again.\n")
    assert await calls(connection) == [("events", "stream", "none")]


@pytest.mark.parametrize("embedded", [False, True], ids=["database-url", "embedded"])
async def test_a_postgres_without_citus_is_an_error_that_says_so(
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    embedded: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    if not embedded:
        monkeypatch.setenv("DATABASE_URL", dsn)
    assert await asyncio.to_thread(main, ["distribute"]) == 1
    assert "has no Citus extension" in capsys.readouterr().err
