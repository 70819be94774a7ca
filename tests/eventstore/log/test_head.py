"""The head: a process learns how far the log reaches, whoever appended."""

import asyncio

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.log import Log


async def test_a_reader_is_woken_by_an_append_of_its_own_process(log: Log) -> None:
    waiter = asyncio.create_task(log.head.wait_beyond(0))
    await asyncio.sleep(0)
    await log.appender.append(new_event())
    await asyncio.wait_for(waiter, 1)


async def test_a_reader_hears_of_an_append_of_another_process(log: Log, database: Database) -> None:
    other = Log(database, Limits())
    await other.start()
    await other.appender.append(new_event())
    await asyncio.wait_for(log.head.wait_beyond(0), 5)
    await other.stop()
    assert log.head.position == 1
