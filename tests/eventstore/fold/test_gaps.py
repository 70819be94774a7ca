"""A hole in the log, or a head that is ahead of its events: an error soon, while it runs and when it starts."""

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog

from eventstore.errors import LogCorruptedError
from eventstore.fold import projector
from eventstore.log import scan
from eventstore.postgres.database import Database
from tests.conftest import StartLoopledger
from tests.support.rebuilding import CARDS, LIMITS, running, send_cards, until

if TYPE_CHECKING:
    from asyncpg import Connection, Record

PATIENT = msgspec.structs.replace(LIMITS, gap_seconds=0.5)

MOVE_HEAD = "UPDATE log_head SET position = position + 1"

# As whoever owns the database can, and nobody else.
REMOVE = """
ALTER TABLE events DISABLE TRIGGER ALL;
ALTER TABLE events_1 DISABLE TRIGGER ALL;
DELETE FROM events WHERE position = %d;
"""

FOLDED_LONG_AGO = "UPDATE projections SET updated_at = updated_at - interval '1 minute'"


async def test_a_head_that_is_ahead_of_the_events_is_an_error_soon(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(scan, "ROUND_SECONDS", 0.1)
    async with running(start, limits=PATIENT) as client:
        await send_cards(client, 3, 1)
        await until(client, CARDS, lambda p: p["lag"] == 0)
        with structlog.testing.capture_logs() as logs:
            await connection.execute(MOVE_HEAD)
            sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 8})
            assert (sent.status, sent.json["position"]) == (200, 5)
            found = await until(client, CARDS, lambda p: p["error"])
        assert "event 4 has not been there" in found["error"]
        gaps = [one for one in logs if one["event"] == "log_gap"]
        assert {one["log_level"] for one in gaps} == {"critical"}
        assert {one["projection"] for one in gaps} >= {"gift_cards"}
        assert len(gaps) <= 3, "it is said once for each projection"
        ready = await client.get("/readyz")
        assert (ready.status, ready.json["status"]) == (503, "not ready")
        assert "there is no event 4" in ready.json["problems"]["log"]
        async with asyncio.timeout(10):
            while "log" not in (await client.get("/healthz/projections")).json["problems"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not found["stuck"], "it has not waited for 30 s yet"
        await connection.execute(FOLDED_LONG_AGO)
        assert (await until(client, CARDS, lambda p: p["stuck"]))["lag"] == 2


async def test_a_hole_in_what_is_still_to_be_folded_is_an_error_that_ends_when_it_fills(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "LONGEST_PAUSE", 0.1)
    async with running(start, limits=PATIENT) as client:
        await send_cards(client, 6, 1)
        await until(client, CARDS, lambda p: p["lag"] == 0)
    await connection.execute(REMOVE % 5)
    await connection.execute("CREATE TABLE kept AS SELECT * FROM events WHERE position = 4")
    await connection.execute("UPDATE kept SET position = 5")
    async with _unchecked(start, monkeypatch) as client:
        await connection.execute(
            "TRUNCATE gift_cards_1, gift_cards_timeline_1, gift_cards_postings_1;"
            " UPDATE projections SET checkpoint = 0,"
            " folded = 0, ignored = 0, quarantined = 0 WHERE name = 'gift_cards'"
        )
        found = await until(client, CARDS, lambda p: p["error"])
        assert (found["checkpoint"], found["lag"]) == (4, 2)
        assert "event 5 has not been there" in found["error"]
        await connection.execute("INSERT INTO events SELECT * FROM kept")
        found = await until(client, CARDS, lambda p: p["lag"] == 0)
        assert (await until(client, CARDS, lambda p: p["error"] is None))["checkpoint"] == 6


def _unchecked(start: StartLoopledger, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def] # noqa: ANN202
    """A server that does not look for holes when it starts."""

    async def look_away(_: object) -> None:
        pass

    monkeypatch.setattr("eventstore.postgres.database.check_head", look_away)
    return running(start, limits=PATIENT)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (MOVE_HEAD, "head 7, newest event 6"),
        (REMOVE % 6, "head 6, newest event 5"),
        (REMOVE % 3, "no event 3"),
        (REMOVE % 1, "no event 1"),
    ],
)
async def test_a_log_with_a_hole_is_not_accepted_at_a_start(
    start: StartLoopledger, dsn: str, connection: "Connection[Record]", statement: str, problem: str
) -> None:
    async with running(start) as client:
        await send_cards(client, 6, 1)
    await connection.execute(statement)
    with pytest.raises(LogCorruptedError, match=problem):
        await Database(dsn, pool_connections=1).open()


async def test_a_hole_far_behind_the_head_is_found_at_a_start_if_folding_goes_on_there(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(start) as client:
        await send_cards(client, 6, 1)
        await until(client, CARDS, lambda p: p["lag"] == 0)
    monkeypatch.setattr("eventstore.postgres.holes.CHECKED_EVENTS", 2)
    await connection.execute(REMOVE % 3)
    database = Database(dsn, pool_connections=1)
    await database.open()
    await database.close()
    await connection.execute(
        "UPDATE projections SET checkpoint = 2, folded = 2, ignored = 0 WHERE name = 'gift_cards'"
    )
    with pytest.raises(LogCorruptedError, match="no event 3"):
        await Database(dsn, pool_connections=1).open()
