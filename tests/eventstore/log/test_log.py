"""The log: positions without holes, in commit order; append-only."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.limits import Limits
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.database import Database
from tests.support import new_event, values
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def test_positions_of_concurrent_appends_have_no_holes_and_no_twins(log: Log) -> None:
    appended = await asyncio.gather(*(log.appender.append(new_event()) for _ in range(500)))
    assert sorted(a.position for a in appended) == list(range(1, 501))


async def test_positions_follow_the_order_of_arrival(log: Log) -> None:
    appended = await asyncio.gather(*(log.appender.append(new_event()) for _ in range(200)))
    assert [a.position for a in appended] == list(range(1, 201))


async def test_two_logs_on_one_database_share_positions_without_holes(
    log: Log, database: Database
) -> None:
    other = Log(database, Limits())
    await other.start()
    appended = await asyncio.gather(
        *((log, other)[n % 2].appender.append(new_event()) for n in range(200))
    )
    await other.stop()
    assert sorted(a.position for a in appended) == list(range(1, 201))


async def test_recorded_at_never_goes_back(log: Log, connection: "Connection[Record]") -> None:
    for _ in range(20):
        await asyncio.gather(*(log.appender.append(new_event()) for _ in range(5)))
    times = values(await connection.fetch("SELECT recorded_at FROM events ORDER BY position"))
    assert times == sorted(times)


async def test_recorded_at_does_not_follow_a_clock_that_is_set_back(
    log: Log, connection: "Connection[Record]"
) -> None:
    await connection.execute("UPDATE log_head SET recorded_at = '2100-01-01Z'")
    appended = await log.appender.append(new_event())
    assert appended.recorded_at.year == 2100


async def test_concurrent_appends_share_a_transaction(
    log: Log, connection: "Connection[Record]"
) -> None:
    await asyncio.gather(*(log.appender.append(new_event()) for _ in range(100)))
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM events") <= 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET topic = 'x'",
        "UPDATE events SET topic = topic WHERE false",
        "DELETE FROM events",
        "TRUNCATE events",
        "DELETE FROM log_head",
        "TRUNCATE log_head",
        "INSERT INTO log_head SELECT * FROM log_head ON CONFLICT DO NOTHING",
        "UPDATE log_head SET position = position - 1",
        "UPDATE log_head SET recorded_at = recorded_at - interval '1 s'",
        "UPDATE events_1 SET topic = 'x'",
        "DELETE FROM events_1",
        "TRUNCATE events_1",
        "UPDATE timelines SET timeline = 7",
        "DELETE FROM timelines",
        "INSERT INTO events TABLE events ON CONFLICT (position) DO UPDATE SET topic = 'x'",
    ],
)
async def test_the_log_refuses_to_be_changed_even_by_its_owner(
    log: Log, connection: "Connection[Record]", statement: str
) -> None:
    await log.appender.append(new_event())
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await connection.execute(statement)


async def test_the_log_refuses_to_be_changed_in_a_replication_session_too(
    log: Log, connection: "Connection[Record]"
) -> None:
    await log.appender.append(new_event())
    await connection.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await connection.execute("DELETE FROM events")


async def test_a_batch_of_uneven_arrays_is_refused_whole(connection: "Connection[Record]") -> None:
    with pytest.raises(asyncpg.NotNullViolationError):
        await connection.execute(
            "SELECT append_events(0, array[gen_random_uuid(), gen_random_uuid()], array['loopz'],"
            " array['t'], array['m'], array[null], array['s'], array[now()], array[''::bytea],"
            " array[''::bytea], NULL)"
        )
    assert await connection.fetchval(LOG["read_head"]) == 0
