"""Locks on the tables of a projection: whoever holds them keeps nobody from starting, ingesting or reading."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.postgres.database import Database
from tests.conftest import StartLoopledger
from tests.support.folding import fold_live
from tests.support.rebuilding import CARDS, level, running, until

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# What holds a lock, as the statement that takes it in a transaction.
MAINTENANCE = {
    "VACUUM or ANALYZE": "LOCK TABLE gift_cards_1 IN SHARE UPDATE EXCLUSIVE MODE",
    "CREATE INDEX": "LOCK TABLE balance_changes_1 IN SHARE UPDATE EXCLUSIVE MODE",
    "a report": "SELECT count(*) FROM gift_cards",
    "a report of changes": "LOCK TABLE balance_changes IN ACCESS SHARE MODE",
}


@asynccontextmanager
async def held(dsn: str, statement: str) -> AsyncIterator["Connection[Record]"]:
    """Hold the locks that a statement takes."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN")
    await connection.execute(statement)
    yield connection
    await connection.close()


@pytest.mark.parametrize("what", MAINTENANCE)
async def test_a_start_waits_for_no_lock_where_the_tables_are_as_they_should_be(
    database: Database, dsn: str, start: StartLoopledger, what: str
) -> None:
    await fold_live(database)
    async with held(dsn, MAINTENANCE[what]), asyncio.timeout(5), running(start) as client:
        await client.loopz("gift-card.updated", {"id": "c-1", "balance": 5})
        await level(client, CARDS)
        assert (await client.get("/v1/gift-cards/c-1")).json["balance"] == 5


# What has to be changed at the next start, and who holds a lock that is needed for that.
OUTDATED = {
    "a column is missing, and a report is open": (
        "ALTER TABLE gift_cards_1 DROP COLUMN gan CASCADE",
        "LOCK TABLE gift_cards_1 IN ACCESS SHARE MODE",
    ),
    "an index is missing, and the table is vacuumed": (
        "DROP INDEX gift_cards_1_status",
        "LOCK TABLE gift_cards_1 IN SHARE UPDATE EXCLUSIVE MODE",
    ),
}


@pytest.mark.parametrize("what", OUTDATED)
async def test_a_projection_that_waits_for_a_lock_holds_up_nothing_else(
    database: Database, dsn: str, start: StartLoopledger, what: str
) -> None:
    await fold_live(database)
    outdated, lock = OUTDATED[what]
    reader = await asyncpg.connect(dsn)
    await reader.execute(outdated)
    async with held(dsn, lock) as holder, asyncio.timeout(20), running(start) as client:
        answer = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 5})
        assert answer.status == 200
        await client.loopz("location.updated", {"id": "l-1"})
        await level(client, "/v1/projections/locations")
        assert (await client.get("/v1/locations/l-1")).status == 200
        assert (await client.get("/readyz")).status == 200
        health = await until_held_up(client)
        assert "its tables have to be changed first" in health
        # Nobody waits long behind it.
        for _ in range(20):
            await reader.fetchval("SELECT count(*) FROM gift_cards_1", timeout=1)
            await asyncio.sleep(0.02)
        shown = await client.get("/v1/gift-cards")
        assert (shown.status, shown.headers.get("Retry-After")) in {(503, "2"), (200, None)}
        await holder.execute("COMMIT")
        await level(client, CARDS)
        await until(client, CARDS, lambda now: now["error"] is None)
        assert (await client.get("/v1/gift-cards/c-1")).json["balance"] == 5
    await reader.close()


async def until_held_up(client: object) -> str:
    """What /healthz/projections says of gift cards, once it says why."""
    while True:
        answer = await client.get("/healthz/projections")  # type: ignore[attr-defined]
        problem: str = (answer.json or {}).get("problems", {}).get("gift_cards", "")
        if "tables" in problem:
            assert answer.status == 503
            return problem
        await asyncio.sleep(0.05)


async def test_reads_of_a_projection_that_nobody_has_set_up_are_told_to_come_again(
    dsn: str, start: StartLoopledger
) -> None:
    # Another process leads, and does nothing.
    leader = await asyncpg.connect(dsn)
    assert await leader.fetchval("SELECT pg_try_advisory_lock(hashtext('loopledger projector'))")
    async with running(start) as client:
        assert (await client.loopz("gift-card.updated", {"id": "c-1"})).status == 200
        for path in ("/v1/gift-cards", "/v1/gift-cards/c-1", "/v1/gift-cards/c-1?at_least=1"):
            answer = await client.get(path)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert answer.json["type"] == "urn:loopledger:problem:not-set-up"
        assert (await client.get("/readyz")).status == 200
        answer = await client.get("/healthz/projections")
        assert answer.status == 503
        assert "is not set up yet" in answer.json["problems"]["gift_cards"]
        await leader.close()
        async with asyncio.timeout(10):
            while (await client.get("/healthz/projections")).status != 200:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
        await level(client, CARDS)
