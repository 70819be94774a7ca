"""Reading the log: contiguous slices, byte for byte, within limits."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from eventstore.limits import Limits
from eventstore.log.events import LogSlice
from eventstore.log.reader import contiguous
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


def positions_of(found: LogSlice) -> list[int]:
    return [event.position for event in found.events]


async def test_a_body_is_kept_byte_for_byte(log: Log) -> None:
    body = b'{ "id":"l-1", "id" : "l-1", "n": 1e400, "t": "\\u0000\\ud800" }\n'
    appended = await log.appender.append(new_event(body=body))
    event = await log.reader.event(appended.position)
    assert event is not None
    assert event.body == body


async def test_a_slice_holds_contiguous_events_after_a_position(log: Log) -> None:
    await asyncio.gather(*(log.appender.append(new_event()) for _ in range(10)))
    found = await log.reader.read_slice(3, 4, {"loopz location.updated"})
    assert positions_of(found) == [4, 5, 6, 7]
    assert (found.after, found.through, found.ignored) == (3, 7, 0)


async def test_a_slice_counts_the_events_that_were_not_asked_for(log: Log) -> None:
    for topic in ("location.updated", "gift-card.updated", "location.updated"):
        await log.appender.append(new_event(topic))
    found = await log.reader.read_slice(0, 10, {"loopz gift-card.updated"})
    assert positions_of(found) == [2]
    assert (found.through, found.ignored) == (3, 2)


async def test_the_two_parts_of_a_slice_add_up_to_it(log: Log) -> None:
    for topic in ("location.updated", "gift-card.updated", "location.updated") * 2:
        await log.appender.append(new_event(topic))
    first, second = (await log.reader.read_slice(0, 10, {"loopz gift-card.updated"})).split(1)
    assert (first.after, first.through, positions_of(first), first.ignored) == (0, 2, [2], 1)
    assert (second.after, second.through, positions_of(second), second.ignored) == (2, 6, [5], 3)


async def test_a_reader_does_not_go_past_a_gap(log: Log, connection: "Connection[Record]") -> None:
    await asyncio.gather(*(log.appender.append(new_event()) for _ in range(2)))
    await connection.execute(
        "INSERT INTO events SELECT 4, received_at, recorded_at, event_id, provider, topic, merchant_id,"
        " program_id, stream, headers_salt, body_salt, headers, body FROM events WHERE position = 1"
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


async def test_a_stream_is_read_whole_and_in_order_over_several_pages(log: Log) -> None:
    await asyncio.gather(
        *(log.appender.append(new_event(body={"id": f"l-{n % 2}"})) for n in range(1_300))
    )
    positions = [event.position async for event in log.reader.stream("loopz/m-1/location/l-0")]
    assert positions == list(range(1, 1_301, 2))
