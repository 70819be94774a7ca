"""The appender: acknowledged means on record, once, whatever becomes of the connection meanwhile."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from uuid import UUID

import asyncpg
import msgspec
import pytest

from eventstore.errors import QueueFullError, RefusedError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.events import Appended, NewEvent
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.fault_injection import (
    AWAY,
    LOST,
    Fault,
    FaultInjector,
    FaultyConnection,
    planned_faults,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record

Plan: TypeAlias = Sequence[tuple[str, Fault]]

DEFAULTS = Limits()

NUL = msgspec.structs.replace(new_event(), topic="a\0b")


class StartAppender(Protocol):
    """Start an appender whose statements meet these faults; limits may differ from the defaults."""

    async def __call__(
        self, plan: Plan = (), *, faults: FaultInjector | None = None, limits: Limits = DEFAULTS
    ) -> Appender:
        """Start it."""


@pytest.fixture
async def start_appender(database: Database) -> AsyncIterator[StartAppender]:
    started: list[Appender] = []

    async def start_one(
        plan: Plan = (), *, faults: FaultInjector | None = None, limits: Limits = DEFAULTS
    ) -> Appender:
        injector = faults or planned_faults(plan)

        async def connect() -> "Connection[Record]":
            real = await injector.run("connect", database.connect, lambda: None)
            return cast("Connection[Record]", FaultyConnection(real, injector))

        appender = Appender(connect, limits, lambda _: None)
        await appender.start()
        started.append(appender)
        return appender

    yield start_one
    for appender in started:
        await asyncio.wait_for(appender.stop(), 10)


@pytest.fixture
def recorded(connection: "Connection[Record]") -> Callable[[], Awaitable[list[UUID]]]:
    """The ids on record, in order; their positions have no hole."""

    async def read() -> list[UUID]:
        rows = await connection.fetch("SELECT position, event_id FROM events ORDER BY position")
        assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["event_id"] for row in rows]

    return read


Recorded = Callable[[], Awaitable[list[UUID]]]


@asynccontextmanager
async def nobody_appends(connection: "Connection[Record]") -> AsyncIterator[None]:
    """Hold the head: batches wait at Postgres."""
    async with connection.transaction():
        await connection.fetchval(LOG["lock_head"])
        yield


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look until it holds: Postgres sends no word of it."""
    for _ in range(1000):
        if await holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never held")


def at_work() -> list[str]:
    """The appenders' tasks that have not ended."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("appender")]


async def append_at_once(appender: Appender, events: Sequence[NewEvent]) -> list[Any]:
    """The answers, errors among them."""
    return await asyncio.gather(*map(appender.append, events), return_exceptions=True)


async def append_at_last(appender: Appender) -> Appended:
    """Append an event, however often it takes longer than an append may take."""
    while True:
        with suppress(UnavailableError):
            return await appender.append(new_event())
        await asyncio.sleep(0.01)


def positions(answers: Sequence[Any]) -> list[int | type]:
    return [one.position if isinstance(one, Appended) else type(one) for one in answers]


def each(times: int, statement: str, fault: Fault) -> Plan:
    return [(statement, fault)] * times


UNKNOWN: dict[str, Plan] = {
    "never sent": [("append", "lost before")],
    "committed": [("append", "lost after")],
    "then away": [("append", "lost after"), ("connect", "lost before"), ("connect", "lost before")],
    "lost looking": [("append", "lost after"), ("begin", "lost before")],
    "lost under the lock": [("append", "lost after"), ("lock_head", "lost after")],
    "lost finding": [("append", "lost before"), ("find_appended", "lost after")],
    "lost before the look's commit": [("append", "lost after"), ("commit", "lost before")],
    "lost at the look's commit": [("append", "lost after"), ("commit", "lost after")],
    "nothing found, lost at commit": [("append", "lost before"), ("commit", "lost after")],
    "committed at the second try": [("append", "lost before"), ("append", "lost after")],
    "committed at the third try": [*each(2, "append", "lost before"), ("append", "lost after")],
}


@pytest.mark.parametrize("plan", UNKNOWN.values(), ids=UNKNOWN)
async def test_a_batch_whose_outcome_is_unknown_is_on_record_once_where_it_was_told(
    start_appender: StartAppender, recorded: Recorded, plan: Plan
) -> None:
    appender = await start_appender(plan)
    events = [new_event() for _ in range(3)]
    answers = await append_at_once(appender, events)
    assert positions(answers) == [1, 2, 3]
    assert await recorded() == [event.event_id for event in events]


async def test_a_batch_found_on_record_is_answered_with_the_time_it_has(
    start_appender: StartAppender, connection: "Connection[Record]"
) -> None:
    appender = await start_appender([("append", "lost after")])
    appended = await appender.append(new_event())
    assert await connection.fetchval("SELECT recorded_at FROM events") == appended.recorded_at


@pytest.mark.parametrize("error", [*LOST, *AWAY], ids=lambda make: type(make()).__name__)
async def test_whatever_a_dying_server_looks_like_the_appender_tries_again(
    start_appender: StartAppender, recorded: Recorded, error: Callable[[], Exception]
) -> None:
    class Dying(FaultInjector):
        def _error(self, _: str) -> Exception:
            return error()

    plan: list[Fault] = ["lost after", "lost before"]
    faults = Dying(lambda name: plan.pop() if name == "append" and plan else "none")
    appender = await start_appender(faults=faults)
    appended = await appender.append(new_event())
    assert (appended.position, len(await recorded())) == (1, 1)


async def test_what_others_appended_meanwhile_stays_apart_from_what_is_looked_for(
    start_appender: StartAppender, recorded: Recorded
) -> None:
    other = await start_appender()
    appender = await start_appender([("append", "lost after"), ("connect", "slow")])
    mine, theirs = [new_event() for _ in range(5)], [new_event() for _ in range(5)]
    answers = await asyncio.gather(append_at_once(appender, mine), append_at_once(other, theirs))
    ids = [event.event_id for event in mine + theirs]
    places = dict(zip(positions(answers[0] + answers[1]), ids, strict=True))
    assert [places[n] for n in range(1, 11)] == await recorded()


async def test_a_statement_still_under_way_in_a_lost_session_does_not_append_later(
    start_appender: StartAppender, recorded: Recorded, connection: "Connection[Record]"
) -> None:
    """The process of a lost session may be paused, or its packets held up, until after we have looked."""
    appender = await start_appender([("append", "none"), ("append", "under way")])
    # From now on an append is one message: the statement is prepared.
    await appender.append(new_event())
    session = appender._session
    assert session is not None
    lost = session.pid
    os.kill(lost, signal.SIGSTOP)
    append = asyncio.create_task(appender.append(new_event()))
    await asyncio.wait([append], timeout=0.5)
    os.kill(lost, signal.SIGCONT)
    assert (await append).position == 2
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1"
    await until(lambda: connection.fetchval(gone, lost))
    assert len(await recorded()) == 2


POISON = {
    "a topic with NUL": msgspec.structs.replace(new_event(), topic="a\0b"),
    "a tenant with a lone surrogate": msgspec.structs.replace(new_event(), merchant_id="\ud800"),
    "a tenant with a separator": msgspec.structs.replace(new_event(), merchant_id="a\x1eb"),
    "a program with a separator": msgspec.structs.replace(new_event(), program_id="a\x1eb"),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
@pytest.mark.parametrize("places", [{0}, {4}, {2, 3}, {0, 1, 2, 3, 4}], ids=str)
async def test_a_delivery_that_the_database_refuses_spoils_only_itself(
    start_appender: StartAppender, recorded: Recorded, poison: NewEvent, places: set[int]
) -> None:
    appender = await start_appender()
    events = [
        msgspec.structs.replace(poison, event_id=UUID(int=n)) if n in places else new_event()
        for n in range(5)
    ]
    answers = await append_at_once(appender, events)
    assert {n for n, one in enumerate(answers) if isinstance(one, RefusedError)} == places
    good = [event.event_id for n, event in enumerate(events) if n not in places]
    assert [one for one in positions(answers) if one is not RefusedError] == [
        *range(1, len(good) + 1)
    ]
    assert await recorded() == good


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
async def test_a_refused_delivery_in_a_batch_of_unknown_outcome_spoils_only_itself(
    start_appender: StartAppender, recorded: Recorded, fault: Fault
) -> None:
    appender = await start_appender(each(4, "append", fault))
    events = [new_event(), new_event(), NUL, new_event(), new_event()]
    answers = await append_at_once(appender, events)
    assert positions(answers) == [1, 2, RefusedError, 3, 4]
    assert await recorded() == [event.event_id for event in events if event is not NUL]


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


async def test_what_no_caller_waits_for_is_not_appended_once_it_is_found_missing(
    start_appender: StartAppender, recorded: Recorded
) -> None:
    plan: Plan = [("append", "lost before"), *each(4, "connect", "lost before")]
    appender = await start_appender(plan, limits=Limits(append_seconds=0.1))
    with pytest.raises(UnavailableError):
        await appender.append(abandoned := new_event())
    await append_at_last(appender)
    assert abandoned.event_id not in await recorded()


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
