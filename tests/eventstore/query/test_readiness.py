"""What is wrong with a Loopledger, in words that say what to do."""

from typing import TYPE_CHECKING

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.readiness import Readiness
from tests.support import new_event
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

REGISTER = "INSERT INTO projections (name, generation, status, version) VALUES ($1, 1, 'live', 1)"


async def test_where_all_is_well_there_is_no_problem(
    database: Database, connection: "Connection[Record]"
) -> None:
    await connection.execute(REGISTER, "locations")
    assert await Readiness(database).find_problems() == {}


async def test_an_error_that_holds_a_projection_up_is_the_problem(
    database: Database, connection: "Connection[Record]"
) -> None:
    await connection.execute(REGISTER, "locations")
    await connection.execute("UPDATE projections SET error = 'the disk is full'")
    assert await Readiness(database).find_problems() == {"locations": "the disk is full"}


async def test_a_projection_that_is_stuck_says_where_and_for_how_long(
    database: Database, connection: "Connection[Record]"
) -> None:
    log = Log(database, Limits())
    await log.start()
    await log.appender.append(new_event())
    await log.stop()
    await connection.execute(REGISTER, "locations")
    await connection.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await connection.execute("UPDATE events SET recorded_at = recorded_at - interval '1 hour'")
    (problem,) = (await Readiness(database).find_problems()).values()
    assert problem.startswith("has not folded event 1, which has waited for 360")
    assert "check that a server that projects is running" in problem
