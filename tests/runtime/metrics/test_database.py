"""The metrics of the database: nobody waits long for one that does not answer."""

import asyncio
from contextlib import closing

from eventstore.fold.registry import Registry
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.log_status import LogStatusReader
from eventstore.query.readiness import Readiness
from runtime.metrics.database import FRESH_SECONDS, WAIT_SECONDS, DatabaseValues
from runtime.metrics.definitions import DATABASE_READY, DATABASE_UP, HEAD
from tests.support.silent_proxy import SilentProxy


def values_of(database: Database) -> DatabaseValues:
    readiness = Readiness(database, Limits())
    return DatabaseValues(LogStatusReader(database), readiness, Registry(database), lambda: 0)


async def test_a_database_that_hangs_holds_no_answer_up_and_its_values_are_left_out(
    dsn: str,
) -> None:
    async with SilentProxy(dsn).run() as proxy:
        database = Database(proxy.dsn, pool_connections=2)
        await database.open()
        with closing(values_of(database)) as values:
            before = await values.read()
            proxy.silent.set()
            await asyncio.sleep(FRESH_SECONDS)
            async with asyncio.timeout(2 * WAIT_SECONDS):
                # The first one waits; nobody does again, while the same read hangs.
                found = [await values.read() for _ in range(10)]
        await database.close()
    assert (before[DATABASE_UP.name], before[HEAD.name]) == ({(): [1.0]}, {(): [0.0]})
    assert found == [{DATABASE_UP.name: {(): [0.0]}}] * 10


async def test_however_many_ask_the_database_is_asked_once(database: Database) -> None:
    with closing(values_of(database)) as values:
        first, *others = await asyncio.gather(*(values.read() for _ in range(20)))
        assert all(other[HEAD.name] is first[HEAD.name] for other in others)
        assert (await values.read())[HEAD.name] is first[HEAD.name]


async def test_a_known_head_beyond_the_log_makes_the_database_not_ready(
    database: Database,
) -> None:
    values = values_of(database)
    assert (await values.read())[DATABASE_READY.name] == {(): [1.0]}
    ahead = DatabaseValues(
        LogStatusReader(database), Readiness(database, Limits()), Registry(database), lambda: 7
    )
    assert (await ahead.read())[DATABASE_READY.name] == {(): [0.0]}
