"""The appender: its queue, its batches, its end, and when it takes nothing."""

import asyncio
import os
import signal
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import msgspec
import pytest

from eventstore.errors import QueueFullError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.appending import (
    Plan,
    Recorded,
    StartAppender,
    append_at_last,
    append_at_once,
    at_work,
    each,
    nobody_appends,
    positions,
    until,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.mark.parametrize(
    "limits", [Limits(queue_deliveries=3), Limits(queue_bytes=3 * 36)], ids=["by count", "by bytes"]
)
async def test_a_full_queue_takes_no_more(
    start_appender: StartAppender,
    recorded: Recorded,
    connection: "Connection[Record]",
    limits: Limits,
) -> None:
    event = msgspec.structs.replace(new_event(), headers=b"h" * 18, body=b"b" * 18)
    events = [msgspec.structs.replace(event, event_id=UUID(int=n)) for n in range(5)]
    appender = await start_appender(limits=limits)
    async with nobody_appends(connection):
        first = asyncio.create_task(appender.append(events[0]))
        await asyncio.sleep(0.05)
        queued = [asyncio.create_task(appender.append(event)) for event in events[1:4]]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await appender.append(events[4])
    assert positions(await asyncio.gather(first, *queued)) == [1, 2, 3, 4]
    assert await recorded() == [event.event_id for event in events[:4]]
    assert (await appender.append(events[4])).position == 5


async def test_what_was_still_queued_when_its_caller_was_told_to_come_again_is_not_appended_later(
    start_appender: StartAppender, recorded: Recorded, connection: "Connection[Record]"
) -> None:
    appender = await start_appender(limits=Limits(append_seconds=0.2))
    sent, queued = new_event(), new_event()
    async with nobody_appends(connection):
        first = asyncio.create_task(append_at_once(appender, [sent]))
        await asyncio.sleep(0.05)
        with pytest.raises(UnavailableError):
            await appender.append(queued)
        assert positions(await first) == [UnavailableError]
    await append_at_last(appender)
    on_record = await recorded()
    assert on_record[0] == sent.event_id
    assert queued.event_id not in on_record


async def test_a_cancelled_caller_does_not_take_its_event_back(
    start_appender: StartAppender, recorded: Recorded, connection: "Connection[Record]"
) -> None:
    appender = await start_appender()
    events = [new_event(), new_event()]
    async with nobody_appends(connection):
        for event in events:
            caller = asyncio.create_task(appender.append(event))
            await asyncio.sleep(0.05)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
    await appender.append(last := new_event())
    assert await recorded() == [event.event_id for event in [*events, last]]


async def test_stopping_drains_the_queue_and_takes_no_more(
    start_appender: StartAppender, recorded: Recorded
) -> None:
    appender = await start_appender(limits=Limits(batch_deliveries=7))
    events = [new_event() for _ in range(100)]
    waiting = [asyncio.create_task(appender.append(event)) for event in events]
    await asyncio.sleep(0)
    await appender.stop()
    assert positions(await asyncio.gather(*waiting)) == list(range(1, 101))
    with pytest.raises(UnavailableError):
        await appender.append(new_event())
    assert await recorded() == [event.event_id for event in events]


AWAY_AT_THE_END: dict[str, Plan] = {
    "refusing connections": [("append", "lost before"), *each(99, "connect", "lost before")],
    "not answering a connection": [("append", "lost before"), ("connect", "hangs")],
    "not answering an append": [("append", "hangs")],
    "not answering a look": [("append", "lost before"), ("lock_head", "hangs")],
    "not answering a commit": [("append", "lost before"), ("commit", "hangs")],
    "dying as the appender stops": [
        ("append", "lost before"),
        ("lock_head", "dies cancelled"),
        *each(99, "connect", "lost before"),
    ],
}


@pytest.mark.parametrize("plan", AWAY_AT_THE_END.values(), ids=AWAY_AT_THE_END)
async def test_stopping_without_postgres_ends_in_time_and_tells_who_waits(
    start_appender: StartAppender,
    connection: "Connection[Record]",
    plan: Plan,
) -> None:
    appender = await start_appender(plan, limits=Limits(drain_seconds=0.3, batch_deliveries=2))
    if ("lock_head", "dies cancelled") in plan:
        # Waits until it is cancelled.
        await connection.execute("BEGIN; " + LOG["lock_head"])
    waiting = [asyncio.create_task(appender.append(new_event())) for _ in range(5)]
    await asyncio.sleep(0.1)
    stopping = asyncio.create_task(appender.stop())
    await asyncio.wait([stopping, *waiting], timeout=1.5)
    assert stopping.done()
    assert [type(one.exception()) for one in waiting] == [UnavailableError] * 5
    assert at_work() == []


async def test_stopping_ends_in_time_while_the_server_is_paused(
    start_appender: StartAppender, connection: "Connection[Record]", database: Database
) -> None:
    appender = await start_appender([("append", "lost before")], limits=Limits(drain_seconds=0.3))
    await connection.execute("BEGIN; " + LOG["lock_head"])
    waiting = asyncio.create_task(appender.append(new_event()))
    waiting_for_a_lock = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    await until(lambda: database.fetchval(waiting_for_a_lock))
    looking = await database.fetchval(waiting_for_a_lock)
    os.kill(looking, signal.SIGSTOP)
    stopping = asyncio.create_task(appender.stop())
    try:
        await asyncio.wait([stopping, waiting], timeout=1.5)
        assert stopping.done()
        assert type(waiting.exception()) is UnavailableError
        assert at_work() == []
    finally:
        os.kill(looking, signal.SIGCONT)


async def test_a_batch_is_bounded_in_deliveries_and_in_bytes(
    start_appender: StartAppender, connection: "Connection[Record]"
) -> None:
    for limits in (Limits(batch_deliveries=2), Limits(batch_bytes=100)):
        appender = await start_appender(limits=limits)
        event = msgspec.structs.replace(new_event(), headers=b"", body=b"b" * 50)
        events = [msgspec.structs.replace(event, event_id=new_event().event_id) for _ in range(6)]
        await append_at_once(appender, events)
    sizes = await connection.fetch("SELECT count(*) FROM events GROUP BY xmin::text")
    assert {row["count"] for row in sizes} == {2}


async def test_the_appender_says_how_far_the_log_reaches(database: Database) -> None:
    heads: list[int] = []
    appender = Appender(database.connect, Limits(), heads.append)
    await appender.start()
    await append_at_once(appender, [new_event() for _ in range(3)])
    await appender.append(new_event())
    await appender.stop()
    assert heads == sorted(heads)
    assert heads[-1] == 4


async def test_an_appender_does_not_start_without_postgres(database: Database) -> None:
    async def connect() -> "Connection[Record]":
        raise asyncpg.CannotConnectNowError

    appender = Appender(connect, Limits(), lambda _: None)
    with pytest.raises(asyncpg.CannotConnectNowError):
        await appender.start()
    await appender.stop()
    assert await database.is_available()


async def test_an_append_that_would_go_below_the_known_head_writes_nothing(
    start_appender: StartAppender, connection: "Connection[Record]"
) -> None:
    appender = await start_appender()
    await append_at_once(appender, [new_event() for _ in range(5)])
    await connection.execute("ALTER TABLE log_head DISABLE TRIGGER ALL")
    await connection.execute("UPDATE log_head SET position = 2")
    with pytest.raises(
        UnavailableError, match="ends at position 2, and is known to have reached 5"
    ):
        await appender.append(new_event())
    assert await connection.fetchval("SELECT position FROM log_head") == 2
    assert await connection.fetchval("SELECT count(*) FROM events") == 5


async def test_a_batch_in_flight_when_the_log_goes_back_is_not_on_record_behind_its_refusal(
    start_appender: StartAppender, connection: "Connection[Record]"
) -> None:
    appender = await start_appender()
    await append_at_once(appender, [new_event() for _ in range(5)])
    async with connection.transaction():
        await connection.execute("ALTER TABLE log_head DISABLE TRIGGER ALL")
        await connection.execute("UPDATE log_head SET position = 2")
        waiting = [asyncio.create_task(appender.append(new_event())) for _ in range(5)]
        await asyncio.sleep(0.1)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert positions(answers) == [UnavailableError] * 5
    assert await connection.fetchval("SELECT count(*) FROM events") == 5


async def test_a_server_that_does_not_wait_for_the_disk_takes_no_appends(
    database: Database, connection: "Connection[Record]"
) -> None:
    sessions: list[Connection[Record]] = []

    async def connect() -> "Connection[Record]":
        sessions.append(await database.connect())
        return sessions[-1]

    appender = Appender(connect, Limits(), lambda _: None)
    await appender.start()
    await appender.append(new_event())
    await sessions[-1].execute("SET synchronous_commit = off")
    with pytest.raises(UnavailableError, match="synchronous_commit = off"):
        await appender.append(new_event())
    assert await connection.fetchval("SELECT position FROM log_head") == 1
    await sessions[-1].execute("SET synchronous_commit = on")
    assert (await append_at_last(appender)).position == 2
    await appender.stop()


async def test_an_append_makes_the_partitions_that_nobody_has_made_ahead(
    start_appender: StartAppender, connection: "Connection[Record]"
) -> None:
    appenders = [await start_appender(limits=Limits(batch_deliveries=7)) for _ in range(3)]
    await connection.execute("UPDATE log_head SET partition_size = 10")
    await connection.execute(
        "INSERT INTO events SELECT n, now(), now(), gen_random_uuid(), 'p', 't', 'm', null, 's', null, null, '', ''"
        " FROM generate_series(10000000, 10000000) AS n;"
        " UPDATE log_head SET position = 10000000"
    )
    answers = await asyncio.gather(
        *(append_at_once(each, [new_event() for _ in range(50)]) for each in appenders)
    )
    told = {position for one in answers for position in positions(one)}
    assert told == set(range(10_000_001, 10_000_151))
    assert await connection.fetchval("SELECT count(*) FROM events") == 151
    assert await connection.fetchval("SELECT partitioned FROM log_head") == 10_000_150


async def test_an_append_takes_no_longer_under_a_long_snapshot(
    start_appender: StartAppender, connection: "Connection[Record]", database: Database
) -> None:
    appender = await start_appender()

    async def pages_read() -> int:
        # A session reports its statistics once a second at most, when it has something to do.
        await asyncio.sleep(1.2)
        await appender.append(new_event())
        read: int = await database.fetchval(
            "SELECT heap_blks_hit + heap_blks_read FROM pg_statio_user_tables WHERE relname = 'log_head'"
        )
        return read

    async with connection.transaction(isolation="repeatable_read"):
        await connection.fetchval("SELECT position FROM log_head")
        for _ in range(2_000):
            await appender.append(new_event())
        before = await pages_read()
        for _ in range(500):
            await appender.append(new_event())
        after = await pages_read()
    assert (after - before) / 500 < 12
