"""Locks on the tables of a projection: whoever holds them keeps nobody from starting, ingesting or reading."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.postgres.database import Database
from tests.conftest import StartLoopledger
from tests.support import new_event
from tests.support.folding import append, fold_live
from tests.support.rebuilding import CARDS, level, running, until

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# What holds a lock, as the statement that takes it in a transaction.
MAINTENANCE = {
    "VACUUM or ANALYZE": "LOCK TABLE gift_cards_1 IN SHARE UPDATE EXCLUSIVE MODE",
    "CREATE INDEX": "LOCK TABLE gift_cards_timeline_1 IN SHARE UPDATE EXCLUSIVE MODE",
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


# The real commands, and what makes each last: a page of the table that is in use, statistics that take their time to
# make, and a snapshot that is older than an index.
SLOW = """
CREATE FUNCTION slow(stream text) RETURNS text LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN PERFORM pg_sleep(60); RETURN stream; END $$;
CREATE STATISTICS slow ON (slow(stream)) FROM gift_cards_1;
"""
LASTING = {
    "VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) gift_cards_1": (
        "DECLARE c CURSOR FOR SELECT * FROM gift_cards_1; FETCH c"
    ),
    "ANALYZE gift_cards_1": "",
    "CREATE INDEX CONCURRENTLY made_by_hand ON gift_cards_1 (position)": "SELECT FROM gift_cards_1",
}


@asynccontextmanager
async def lasting(dsn: str, command: str) -> AsyncIterator[None]:
    """Have a command hold its lock on the table for as long as this lasts."""
    other, own = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    if command.startswith("ANALYZE"):
        await other.execute(SLOW)
    else:
        await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await other.execute(LASTING[command])
    running_command = asyncio.create_task(own.execute(command))
    granted = (
        "SELECT count(*) FROM pg_locks WHERE pid = $1 AND relation = 'gift_cards_1'::regclass"
        " AND mode = 'ShareUpdateExclusiveLock' AND granted"
    )
    try:
        async with asyncio.timeout(10):
            while not await other.fetchval(granted, own.get_server_pid()):
                assert not running_command.done(), running_command
                await asyncio.sleep(0.02)
        yield
        assert not running_command.done(), "it has held its lock all the time"
    finally:
        await other.fetchval("SELECT pg_terminate_backend($1, 5000)", own.get_server_pid())
        await asyncio.gather(running_command, return_exceptions=True)
        await other.close()
        own.terminate()


@pytest.mark.parametrize("command", LASTING)
async def test_a_command_that_runs_on_a_projections_table_holds_up_no_start(
    database: Database, dsn: str, start: StartLoopledger, command: str
) -> None:
    cards = [
        new_event("gift-card.updated", {"id": f"c-{n}", "name": "n", "balance": n})
        for n in range(20)
    ]
    await append(database, cards)
    await fold_live(database)
    async with lasting(dsn, command), asyncio.timeout(20), running(start) as client:
        await client.loopz("gift-card.updated", {"id": "c-1", "balance": 5})
        await level(client, CARDS)
        assert (await client.get("/v1/gift-cards/c-1")).json["balance"] == 5
        assert (await client.get("/healthz/projections")).status == 200


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
