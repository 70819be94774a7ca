"""What is wrong with a Loopledger, in words that say what to do."""

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.queries import QUERIES
from eventstore.query.readiness import NOT_SET_UP, Readiness
from tests.support import new_event
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

REGISTER = "INSERT INTO projections (name, generation, status, version) VALUES ($1, 1, 'live', 1)"


async def append(database: Database, count: int) -> None:
    log = Log(database, Limits())
    await log.start()
    for _ in range(count):
        await log.appender.append(new_event())
    await log.stop()


async def test_where_all_is_well_there_is_no_problem(
    database: Database, connection: "Connection[Record]"
) -> None:
    await connection.execute(REGISTER, "locations")
    assert await Readiness(database, Limits()).find_problems() == {}
    assert await Readiness(database, Limits()).find_held_up() == {}


async def test_a_projection_without_tables_is_not_set_up(
    database: Database, connection: "Connection[Record]"
) -> None:
    await connection.execute(REGISTER, "locations")
    readiness = Readiness(database, Limits(), ["locations", "gift_cards"])
    assert await readiness.find_held_up() == {"locations": NOT_SET_UP, "gift_cards": NOT_SET_UP}


async def test_a_log_that_ends_before_what_is_known_takes_no_deliveries(database: Database) -> None:
    problems = await Readiness(database, Limits()).find_problems(known_head=7)
    assert problems["log"].startswith("the log ends at position 0, and is known to have reached 7")
    assert "loopledger failover accept" in problems["log"]


async def test_a_head_that_is_ahead_of_the_events_takes_no_deliveries(
    database: Database, connection: "Connection[Record]"
) -> None:
    readiness = Readiness(database, Limits())
    await append(database, 3)
    assert await readiness.find_problems() == {}
    await connection.execute("UPDATE log_head SET position = position + 1")
    problems = await readiness.find_problems()
    assert problems["log"].startswith("by its head the log reaches to 4, but there is no event 4.")
    # Nor once it has grown on behind the hole.
    await append(database, 1)
    for each in (readiness, Readiness(database, Limits())):
        assert "there is no event 4" in (await each.find_problems())["log"]


async def test_a_head_that_is_behind_the_events_takes_no_deliveries(
    database: Database, connection: "Connection[Record]"
) -> None:
    await append(database, 3)
    await connection.execute("ALTER TABLE log_head DISABLE TRIGGER ALL")
    await connection.execute("UPDATE log_head SET position = 2")
    problems = await Readiness(database, Limits()).find_problems()
    assert "but there is an event 3" in problems["log"]


async def test_where_the_log_is_distributed_the_newest_events_may_come_late(
    database: Database, connection: "Connection[Record]"
) -> None:
    database.distributed = True
    await connection.execute("UPDATE log_head SET position = 1")
    assert await Readiness(database, Limits()).find_problems() == {}
    soon = Readiness(database, Limits(gap_seconds=1e-6))
    await soon.find_problems()
    assert "there is no event 1" in (await soon.find_problems())["log"]


async def test_a_database_that_cannot_be_written_to_takes_no_deliveries(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUERIES, "is_read_only", "SELECT true")
    assert "is read-only" in (await Readiness(database, Limits()).find_problems())["postgres"]


async def test_an_error_that_holds_a_projection_up_is_the_problem(
    database: Database, connection: "Connection[Record]"
) -> None:
    await connection.execute(REGISTER, "locations")
    await connection.execute("UPDATE projections SET error = 'the disk is full'")
    readiness = Readiness(database, Limits())
    assert await readiness.find_held_up() == {"locations": "the disk is full"}
    # Deliveries can be taken all the same.
    assert await readiness.find_problems() == {}


async def test_a_projection_that_is_stuck_says_where_and_for_how_long(
    database: Database, connection: "Connection[Record]"
) -> None:
    await append(database, 1)
    await connection.execute(REGISTER, "locations")
    await connection.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await connection.execute("UPDATE events SET recorded_at = recorded_at - interval '1 hour'")
    (problem,) = (await Readiness(database, Limits()).find_held_up()).values()
    assert problem.startswith("has not folded event 1, which has waited for 360")
    assert "check that a server that projects is running" in problem


async def test_a_log_whose_times_are_ahead_of_the_clock_is_reported_and_takes_deliveries(
    database: Database, connection: "Connection[Record]"
) -> None:
    readiness = Readiness(database, Limits())
    await connection.execute("UPDATE log_head SET recorded_at = now() + interval '50 s'")
    assert await readiness.find_held_up() == {}
    await connection.execute("UPDATE log_head SET recorded_at = '2099-01-01Z'")
    with capture_logs() as logs:
        await append(database, 1)
    assert "correct the clock" in (await readiness.find_held_up())["log"]
    assert await readiness.find_problems() == {}
    (said,) = [entry for entry in logs if entry["event"] == "log_clock_ahead"]
    assert said["recorded_at"] == "2099-01-01T00:00:00+00:00"
