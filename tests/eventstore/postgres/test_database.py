"""The database's connections: those that died are replaced, and those that fold read no table as a whole."""

import asyncio
import gc
import threading
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.limits import Limits
from eventstore.postgres.database import Database, run_connected
from tests.support import new_event
from tests.support.folding import projector
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

LIMITS = Limits(fold_events=20, fold_streams=1)

SCANS = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'gift_cards_1'"


async def end_all_others(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_a_read_gets_its_answer_when_every_connection_died_unnoticed(
    database: Database, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.gather(*(database.fetchval("SELECT pg_sleep(0.1)") for _ in range(5)))
    # While this loop stands still, it cannot notice anything.
    thread = threading.Thread(target=lambda: asyncio.run(end_all_others(dsn)))
    thread.start()
    thread.join()
    assert await database.fetchval("SELECT 1") == 1
    assert await asyncio.gather(*(database.fetchval("SELECT 1") for _ in range(5))) == [1] * 5
    # To close the dead ones fails, which is nobody's business.
    await asyncio.sleep(0.1)
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("durable", [True, False])
async def test_no_session_compiles_its_statements(dsn: str, *, durable: bool) -> None:
    database = Database(dsn, pool_connections=1, durable=durable)
    await database.open()
    assert await database.fetchval("SHOW jit") == "off"
    await database.close()


async def test_a_fold_that_began_with_an_empty_table_reads_no_table_as_a_whole_later(
    dsn: str, connection: "Connection[Record]"
) -> None:
    database = Database(dsn, pool_connections=3, durable=False)
    await database.open()
    log = Log(database, LIMITS)
    await log.start()
    one = await projector(database, log, limits=LIMITS)
    for n in range(10):
        cards = [new_event("gift-card.updated", {"id": f"c-{m}", "balance": n}) for m in range(50)]
        await asyncio.gather(*map(log.appender.append, cards))
        await one.fold_next()
    await log.stop()
    # A session tells of its scans at its end, at the latest.
    await database.close()
    while True:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        scans, found = await connection.fetchrow(SCANS) or pytest.fail("the table is gone")
        if found:
            break
        await asyncio.sleep(0.05)
    # Each index was made by reading it, while it was empty; and once it was looked whether it is.
    indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'gift_cards_1'::regclass"
    assert scans == 1 + await connection.fetchval(indexes)


async def test_a_role_that_does_not_wait_for_the_disk_is_made_to(
    database: Database, connection: "Connection[Record]"
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    fresh = await database.connect()
    assert await fresh.fetchval("SHOW synchronous_commit") == "on"
    await fresh.close()


async def test_a_connection_of_ones_own_is_kept_whatever_it_fails_of(database: Database) -> None:
    tries = 0
    done = asyncio.Event()

    async def connect() -> "Connection[Record]":
        nonlocal tries
        tries += 1
        if tries == 1:
            message = "the password is being changed"
            raise asyncpg.InvalidPasswordError(message)
        return await database.connect()

    async def work(_: "Connection[Record]") -> None:
        done.set()

    task = asyncio.create_task(run_connected(connect, work))
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_whoever_waits_for_a_connection_gets_one_in_turn(dsn: str) -> None:
    database = Database(dsn, pool_connections=1)
    await database.open()
    order: list[int] = []

    async def read(number: int, times: int) -> None:
        for _ in range(times):
            await database.fetchval("SELECT 1")
            order.append(number)

    # One reads again and again, and asks anew as soon as it has its answer: the others are not overtaken.
    await asyncio.gather(read(0, 50), *(read(n, 1) for n in range(1, 20)))
    assert order[:20] == list(range(20))
    async with database.transaction() as session:
        await session.execute("SELECT 1")
    await database.close()
