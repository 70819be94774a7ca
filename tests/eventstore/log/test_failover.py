"""A replica takes over: nothing that it has is lost, what it lacks is named, and it is not written to unasked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eventstore.errors import UnavailableError
from eventstore.limits import Limits
from eventstore.log.events import Appended
from eventstore.log.failover import accept_timeline, read_failover
from eventstore.postgres.database import Database
from eventstore.query.readiness import Readiness
from tests.support import new_event
from tests.support.log import Log
from tests.support.standby import Pair, until

LIMITS = Limits(poll_seconds=0.1, append_seconds=3)


@asynccontextmanager
async def log_on(
    directory: Path, *, synchronous: bool
) -> AsyncIterator[tuple[Pair, Database, Log]]:
    pair = Pair(directory)
    try:
        await pair.start(synchronous=synchronous)
        database = Database(pair.dsn, pool_connections=3)
        await database.open()
        log = Log(database, LIMITS)
        await log.start()
        yield pair, database, log
        await log.stop()
        await database.close()
    finally:
        pair.stop()


async def try_to_append(log: Log) -> Appended | UnavailableError:
    try:
        return await log.appender.append(new_event())
    except UnavailableError as error:
        return error


async def append_at_last(log: Log) -> Appended:
    for _ in range(400):
        if isinstance(answer := await try_to_append(log), Appended):
            return answer
        await asyncio.sleep(0.05)
    pytest.fail("nothing was appended any more")


async def until_refused(log: Log) -> str:
    async with asyncio.timeout(20):
        while log.appender.refusal is None:
            await try_to_append(log)
        return log.appender.refusal


async def test_a_synchronous_standby_that_takes_over_has_every_acknowledged_event(
    data_dir: Path,
) -> None:
    acknowledged: dict[int, object] = {}
    going_on = True

    async def reached(count: int) -> bool:
        return len(acknowledged) >= count

    async def send(log: Log) -> None:
        while going_on:
            event = new_event()
            try:
                answer = await log.appender.append(event)
            except UnavailableError:
                await asyncio.sleep(0.02)
            else:
                # A position is told once: were it given out again, this would be another event's.
                assert acknowledged.setdefault(answer.position, event.event_id) == event.event_id

    async with log_on(data_dir, synchronous=True) as (pair, database, log):
        senders = [asyncio.create_task(send(log)) for _ in range(40)]
        await until(lambda: reached(500))
        await pair.fail_over()
        await until_refused(log)
        before = len(acknowledged)
        await asyncio.sleep(1.5)
        assert len(acknowledged) == before
        await accept_timeline(database)
        await until(lambda: reached(before + 500))
        going_on = False
        await asyncio.gather(*senders)
        rows = await database.fetch("SELECT position, event_id FROM events ORDER BY position")
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    on_record = {row["position"]: row["event_id"] for row in rows}
    assert {position: on_record.get(position) for position in acknowledged} == acknowledged


async def test_a_lagging_standby_that_takes_over_is_not_written_to_until_its_loss_is_accepted(
    data_dir: Path,
) -> None:
    async with log_on(data_dir, synchronous=False) as (pair, database, log):
        assert (await append_at_last(log)).position == 1
        await pair.catch_up()
        await pair.cut()
        assert [(await append_at_last(log)).position for _ in range(3)] == [2, 3, 4]
        with capture_logs() as logs:
            await pair.fail_over()
            refusal = await until_refused(log)
            problems = await Readiness(database, Limits()).find_problems()
            refused = [await try_to_append(log) for _ in range(50)]
            head = await database.fetchval("SELECT position FROM log_head")
            status = await read_failover(database)
            await accept_timeline(database)
            first = await append_at_last(log)
    assert (
        "timeline 2, accepted is 1; its log ends at position 1, and is known to have reached 4"
        in refusal
    )
    assert "loopledger failover accept" in problems["log"]
    assert all(isinstance(one, UnavailableError) for one in refused)
    assert (head, status.timeline, status.accepted) == (1, 2, 1)
    assert first.position == 2
    told = {one["event"]: one for one in logs if one["log_level"] == "critical"}
    assert told["appends_refused"]["error"] == refusal
    assert (told["events_lost"]["first"], told["events_lost"]["last"]) == (2, 4)
