"""The log is looked through for holes, part by part: what is missing is on record, wherever in the log it was."""

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from eventstore.limits import Limits
from eventstore.log.scan import LogScan
from eventstore.postgres.database import Database
from eventstore.query.readiness import Readiness
from tests.support import new_event
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

LIMITS = Limits(scan_events=4)


@pytest.fixture
async def scan(log: Log, database: Database) -> LogScan:
    """Of a log of ten events."""
    for _ in range(10):
        await log.appender.append(new_event())
    return LogScan(database, LIMITS)


async def remove(connection: "Connection[Record]", position: int) -> None:
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (LIKE events)")
    await connection.execute("INSERT INTO kept SELECT * FROM events WHERE position = $1", position)
    await connection.execute("SET session_replication_role = replica")
    for table in ("events", "events_1"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await connection.execute("DELETE FROM events WHERE position = $1", position)


async def place(connection: "Connection[Record]") -> tuple[int, int | None]:
    row = await connection.fetchrow("SELECT position, hole FROM log_scan")
    assert row is not None
    return row["position"], row["hole"]


async def test_it_goes_on_where_it_was_after_a_restart_and_begins_anew_at_the_end(
    scan: LogScan, database: Database, connection: "Connection[Record]"
) -> None:
    assert not await scan.look()
    assert await place(connection) == (4, None)
    again = LogScan(database, LIMITS)
    assert [await again.look() for _ in range(3)] == [False, True, False]
    assert await place(connection) == (4, None)


async def test_a_hole_that_everything_has_passed_is_found_and_said_once_until_it_is_filled(
    scan: LogScan, database: Database, connection: "Connection[Record]"
) -> None:
    await remove(connection, 7)
    with capture_logs() as logs:
        for _ in range(4):
            await scan.look()
    (found,) = [one for one in logs if one["event"] == "log_hole_found"]
    assert (found["log_level"], found["position"]) == ("critical", 7)
    assert await place(connection) == (6, 7)
    problems = await Readiness(database, LIMITS).find_held_up()
    assert problems["log"].startswith("there is no event 7. ")
    assert "restore the database from a backup" in problems["log"]
    await connection.execute("INSERT INTO events SELECT * FROM kept")
    with capture_logs() as logs:
        assert await scan.look()
    assert [(one["event"], one["position"]) for one in logs] == [("log_hole_filled", 7)]
    assert await Readiness(database, LIMITS).find_held_up() == {}


async def test_where_the_log_is_distributed_an_event_may_come_late(
    scan: LogScan, database: Database, connection: "Connection[Record]"
) -> None:
    database.distributed = True
    await remove(connection, 2)
    assert not await scan.look()
    assert await place(connection) == (0, None)
    soon = LogScan(database, Limits(scan_events=4, gap_seconds=1e-6))
    await soon.look()
    await soon.look()
    assert await place(connection) == (1, 2)


async def test_an_empty_log_has_no_hole(
    database: Database, connection: "Connection[Record]"
) -> None:
    assert await LogScan(database, LIMITS).look()
    assert await place(connection) == (0, None)


async def test_it_reads_nothing_but_an_index(
    scan: LogScan, connection: "Connection[Record]"
) -> None:
    assert await scan.look() is False
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch(
        "EXPLAIN SELECT count(*) FROM events WHERE position > 0 AND position <= 4"
    )
    assert any("Index Only Scan" in row[0] for row in plan)


async def test_a_hole_beyond_the_end_of_a_log_that_went_back_is_not_called_filled(
    scan: LogScan, connection: "Connection[Record]"
) -> None:
    await remove(connection, 7)
    for _ in range(3):
        await scan.look()
    assert await place(connection) == (6, 7)
    await connection.execute("DELETE FROM events WHERE position > 4")
    await connection.execute(
        "ALTER TABLE log_head DISABLE TRIGGER ALL; UPDATE log_head SET position = 4"
    )
    with capture_logs() as logs:
        await scan.look()
    assert await place(connection) == (4, None)
    assert not logs
