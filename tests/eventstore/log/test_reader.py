"""The log: positions without holes, in commit order; append-only; read without skipping."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.limits import Limits
from eventstore.log.events import LogSlice
from eventstore.log.reader import contiguous
from eventstore.postgres.database import Database, run_connected
from tests.support import new_event, values
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    found = Log(database, Limits(poll_seconds=0.05))
    await found.start()
    yield found
    await found.stop()


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


async def test_a_body_is_kept_byte_for_byte(log: Log) -> None:
    body = b'{ "id":"l-1", "id" : "l-1", "n": 1e400, "t": "\\u0000\\ud800" }\n'
    appended = await log.appender.append(new_event(body=body))
    event = await log.reader.event(appended.position)
    assert event is not None
    assert event.body == body


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
        "INSERT INTO events TABLE events ON CONFLICT (stream, position) DO UPDATE SET topic = 'x'",
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


def positions_of(tail: LogSlice) -> list[int]:
    return [event.position for event in tail.events]


async def test_a_batch_of_uneven_arrays_is_refused_whole(connection: "Connection[Record]") -> None:
    with pytest.raises(asyncpg.NotNullViolationError):
        await connection.execute(
            "SELECT append_events(array[gen_random_uuid(), gen_random_uuid()], array['loopz'],"
            " array['t'], array['m'], array[null], array['s'], array[now()], array[''::bytea],"
            " array[''::bytea])"
        )
    assert await connection.fetchval("SELECT position FROM log_head") == 0


async def test_reading_the_tail_gives_contiguous_events_after_a_position(log: Log) -> None:
    await asyncio.gather(*(log.appender.append(new_event()) for _ in range(10)))
    tail = await log.reader.read_slice(3, 4, {"loopz location.updated"})
    assert positions_of(tail) == [4, 5, 6, 7]
    assert (tail.after, tail.through, tail.ignored) == (3, 7, 0)


async def test_the_tail_counts_the_events_that_nobody_wants(log: Log) -> None:
    for topic in ("location.updated", "gift-card.updated", "location.updated"):
        await log.appender.append(new_event(topic))
    tail = await log.reader.read_slice(0, 10, {"loopz gift-card.updated"})
    assert positions_of(tail) == [2]
    assert (tail.through, tail.ignored) == (3, 2)


async def test_a_tail_that_is_cut_adds_up_to_the_whole(log: Log) -> None:
    for topic in ("location.updated", "gift-card.updated", "location.updated") * 2:
        await log.appender.append(new_event(topic))
    first, second = (await log.reader.read_slice(0, 10, {"loopz gift-card.updated"})).split(1)
    assert (first.after, first.through, positions_of(first), first.ignored) == (0, 2, [2], 1)
    assert (second.after, second.through, positions_of(second), second.ignored) == (2, 6, [5], 3)


async def test_a_reader_does_not_go_past_a_gap(log: Log, connection: "Connection[Record]") -> None:
    await asyncio.gather(*(log.appender.append(new_event()) for _ in range(2)))
    await connection.execute(
        "INSERT INTO events SELECT 4, event_id, provider, topic, merchant_id, program_id, stream,"
        " received_at, recorded_at, headers, body FROM events WHERE position = 1"
    )
    assert positions_of(await log.reader.read_slice(0, 10, None)) == [1, 2]
    assert (await log.reader.read_slice(0, 10, ())).through == 2
    assert [event.position for event in await log.reader.list_events(0, 10)] == [1, 2]
    assert await log.reader.read_slice(2, 10, ()) == LogSlice(2, 2, [])


@pytest.mark.parametrize(
    ("after", "positions", "count"),
    [(0, [1, 2, 3], 3), (0, [2, 3], 0), (5, [6, 8], 1), (5, [], 0), (0, [1, 1], 1)],
)
def test_contiguous_counts_up_to_the_first_gap(
    after: int, positions: list[int], count: int
) -> None:
    assert contiguous(after, positions) == count


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


async def test_no_more_bodies_are_read_at_once_than_fit(database: Database) -> None:
    log = Log(database, Limits(fold_bytes=2_500))
    await log.start()
    body = {"id": "l-1", "name": "n" * 980}
    for _ in range(6):
        await log.appender.append(new_event(body=body))
    topics = {"loopz location.updated"}
    assert positions_of(await log.reader.read_slice(0, 10, topics)) == [1, 2, 3]
    assert positions_of(await log.reader.read_slice(3, 10, topics)) == [4, 5, 6]
    positions = [event.position async for event in log.reader.stream("loopz/m-1/location/l-1")]
    assert positions == [1, 2, 3, 4, 5, 6]
    await log.stop()


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


async def test_a_stream_is_read_whole_and_in_order_over_several_pages(log: Log) -> None:
    await asyncio.gather(
        *(log.appender.append(new_event(body={"id": f"l-{n % 2}"})) for n in range(1_300))
    )
    positions = [event.position async for event in log.reader.stream("loopz/m-1/location/l-0")]
    assert positions == list(range(1, 1_301, 2))
