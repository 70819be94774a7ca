"""The partitions of the log: there before they are needed, and frozen when they are full."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.errors import PostgresError
from eventstore.log.partitions import PartitionKeeper
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# As if the first two partitions had been of ten events each.
SMALL = """
DROP TABLE events_1, events_5000001;
UPDATE log_head SET partitioned = 0, partition_size = 10;
SELECT make_partitions(20)
"""


async def bounds(connection: "Connection[Record]") -> list[str]:
    rows = await connection.fetch(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY oid"
    )
    return [row[0] for row in rows]


@pytest.fixture
async def small(connection: "Connection[Record]") -> None:
    await connection.execute(SMALL)


@pytest.mark.usefixtures("small")
async def test_a_whole_empty_partition_is_ahead_of_the_log(
    log: Log, database: Database, connection: "Connection[Record]"
) -> None:
    keeper = PartitionKeeper(database)
    for _ in range(25):
        await log.appender.append(new_event())
        await keeper.look(connection)
        ahead = await connection.fetchval("SELECT partitioned - position FROM log_head")
        assert ahead >= 10
    assert len(await bounds(connection)) == 4


@pytest.mark.usefixtures("small")
async def test_the_size_of_a_partition_may_change_without_a_gap(
    log: Log, connection: "Connection[Record]"
) -> None:
    await connection.execute("UPDATE log_head SET partition_size = 3")
    for _ in range(30):
        await log.appender.append(new_event())
    assert (await bounds(connection))[1:4] == [
        "FOR VALUES FROM ('11') TO ('21')",
        "FOR VALUES FROM ('21') TO ('24')",
        "FOR VALUES FROM ('24') TO ('27')",
    ]
    assert await connection.fetchval("SELECT count(*) FROM events") == 30


@pytest.mark.usefixtures("small")
async def test_a_full_partition_is_vacuumed_once(
    log: Log, database: Database, connection: "Connection[Record]"
) -> None:
    for _ in range(10):
        await log.appender.append(new_event())
    # Until the notification is out, its transaction may be older than an event's.
    await asyncio.sleep(0.2)
    keeper = PartitionKeeper(database)
    for _ in range(2):
        await keeper.look(connection)
    seen = "SELECT relname FROM pg_class WHERE relname ~ '^events_\\d+$' AND relallvisible > 0"
    assert [row[0] for row in await connection.fetch(seen)] == ["events_1"]


@pytest.mark.usefixtures("small")
async def test_a_history_is_read_across_partitions_in_order(log: Log) -> None:
    for _ in range(25):
        await log.appender.append(new_event())
    stream = new_event().stream
    assert [event.position async for event in log.reader.stream(stream)] == list(range(1, 26))
    assert (await log.reader.read_slice(5, 15, None)).through == 20


@pytest.mark.usefixtures("small")
async def test_readers_and_appends_go_on_while_a_partition_is_made(
    log: Log, dsn: str, connection: "Connection[Record]"
) -> None:
    reading = await asyncpg.connect(dsn)
    try:
        async with reading.transaction(isolation="repeatable_read"):
            await reading.fetch("SELECT * FROM events")
            await connection.execute("SET lock_timeout = '1s'; SELECT make_partitions(50)")
            assert (await log.appender.append(new_event())).position == 1
    finally:
        await reading.close()


@pytest.mark.parametrize("table", ["events_1", "log_head", "timelines"])
async def test_a_log_that_a_crash_would_empty_is_refused(
    dsn: str, connection: "Connection[Record]", table: str
) -> None:
    await connection.execute(f"ALTER TABLE {table} SET UNLOGGED")
    with pytest.raises(PostgresError, match=f"UNLOGGED: {table}"):
        await Database(dsn, pool_connections=1).open()
