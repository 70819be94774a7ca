"""One worker appends for another: acknowledged means on record, once, whichever of them dies meanwhile."""

import asyncio
import itertools
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest
from structlog.testing import capture_logs

from eventstore.errors import LoopledgerError, QueueFullError, RefusedError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.batch import Pending
from eventstore.log.events import Appended, NewEvent
from eventstore.log.failover import accept_timeline
from eventstore.log.relay_client import RECONNECT_SECONDS, SILENT_SECONDS, RelayingAppender
from eventstore.log.relay_server import RelayServer
from eventstore.log.writer import Doubt
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.appending import (
    Recorded,
    append_at_last,
    append_at_once,
    nobody_appends,
    positions,
    until,
)
from tests.support.appending_worker import start_worker

if TYPE_CHECKING:
    import subprocess
    from uuid import UUID

    from asyncpg import Connection, Record

Rendezvous = tuple[socket.socket, socket.socket]

DEFAULTS = Limits()


class StartRelaying(Protocol):
    """Start an appender that hands over, and wait until it has reached the worker that appends."""

    async def __call__(self, limits: Limits = DEFAULTS) -> RelayingAppender:
        """Start it."""


@pytest.fixture
def rendezvous() -> Iterator[Rendezvous]:
    ends = socket.socketpair(type=socket.SOCK_DGRAM)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
async def start_relaying(
    database: Database, rendezvous: Rendezvous
) -> AsyncIterator[StartRelaying]:
    started: list[RelayingAppender] = []

    async def start_one(limits: Limits = DEFAULTS) -> RelayingAppender:
        own = Appender(database.connect, limits, lambda _: None)
        appender = RelayingAppender(own, rendezvous[1], limits)
        await appender.start()
        started.append(appender)
        await until_linked(appender)
        return appender

    yield start_one
    for appender in started:
        await asyncio.wait_for(appender.stop(), 10)


@pytest.fixture
async def server(database: Database, rendezvous: Rendezvous) -> AsyncIterator[Appender]:
    """The appender of a worker that appends for others, in this process."""
    appender = Appender(database.connect, Limits(), lambda _: None)
    relay = RelayServer(appender, rendezvous[0], Limits(drain_seconds=2))
    await appender.start()
    relay.start()
    yield appender
    await relay.stop()
    await appender.stop()


@pytest.fixture
def worker(dsn: str, rendezvous: Rendezvous) -> Iterator["Worker"]:
    found = Worker(rendezvous[0], dsn)
    yield found
    found.kill()


class Worker:
    """A worker that appends for others, in a process of its own."""

    def __init__(self, rendezvous: socket.socket, dsn: str) -> None:
        self._start: Callable[[], subprocess.Popen[bytes]] = lambda: start_worker(rendezvous, dsn)
        self.process = self._start()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start another one in its place."""
        self.process = self._start()


async def until_linked(appender: RelayingAppender) -> None:
    async def linked() -> bool:
        return appender._usable() is not None

    await until(linked)


async def until_unlinked(appender: RelayingAppender) -> None:
    async def unlinked() -> bool:
        return appender._usable() is None

    await until(unlinked)


@pytest.mark.usefixtures("server")
async def test_what_is_handed_over_is_on_record_where_it_was_told(
    start_relaying: StartRelaying, recorded: Recorded
) -> None:
    appenders = [await start_relaying() for _ in range(3)]
    events = [[new_event() for _ in range(200)] for _ in appenders]
    answers = await asyncio.gather(*map(append_at_once, appenders, events))
    for own, told in zip(events, answers, strict=True):
        on_record = await recorded()
        assert [on_record[one.position - 1] for one in told] == [event.event_id for event in own]


@pytest.mark.usefixtures("server")
async def test_an_event_is_answered_with_the_time_it_has_and_keeps_its_bytes(
    start_relaying: StartRelaying, connection: "Connection[Record]"
) -> None:
    appender = await start_relaying()
    event = msgspec.structs.replace(new_event(), body=bytes(range(256)), program_id=None)
    appended = await appender.append(event)
    row = await connection.fetchrow(
        "SELECT recorded_at, event_id, provider, topic, merchant_id, program_id, stream, received_at, headers, body"
        " FROM events"
    )
    assert row is not None
    assert tuple(row) == (appended.recorded_at, *msgspec.structs.astuple(event))


POISON = {
    "a topic with NUL": msgspec.structs.replace(new_event(), topic="a\0b"),
    "a tenant with a lone surrogate": msgspec.structs.replace(new_event(), merchant_id="\ud800"),
}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_a_delivery_that_is_refused_spoils_only_itself(
    start_relaying: StartRelaying, recorded: Recorded, poison: NewEvent
) -> None:
    appender = await start_relaying()
    events = [new_event(), new_event(), poison, new_event()]
    answers = await append_at_once(appender, events)
    assert positions(answers) == [1, 2, RefusedError, 3]
    assert await recorded() == [event.event_id for event in events if event is not poison]


async def test_a_batch_of_a_killed_worker_is_on_record_once_where_it_was_told(
    worker: Worker,
    start_relaying: StartRelaying,
    recorded: Recorded,
    connection: "Connection[Record]",
) -> None:
    """Its statement is under way, and its session outlives it."""
    appender = await start_relaying()
    await appender.append(first := new_event())
    events = [new_event() for _ in range(50)]
    async with nobody_appends(connection):
        waiting = asyncio.create_task(append_at_once(appender, events))
        await asyncio.sleep(0.2)
        worker.kill()
        await until_unlinked(appender)
        await asyncio.sleep(0.1)
    assert positions(await waiting) == list(range(2, 52))
    assert await recorded() == [event.event_id for event in [first, *events]]


async def test_what_a_killed_worker_committed_but_never_told_is_told_as_it_is_on_record(
    worker: Worker,
    start_relaying: StartRelaying,
    recorded: Recorded,
    connection: "Connection[Record]",
) -> None:
    appender = await start_relaying()
    events = [new_event() for _ in range(5)]
    count = "SELECT count(*) = 5 FROM events"
    async with nobody_appends(connection):
        waiting = asyncio.create_task(append_at_once(appender, events))
        await asyncio.sleep(0.2)
        # It sees nothing of the commit.
        worker.process.send_signal(signal.SIGSTOP)
    await until(lambda: connection.fetchval(count))
    assert not waiting.done()
    worker.kill()
    assert positions(await waiting) == [1, 2, 3, 4, 5]
    assert await recorded() == [event.event_id for event in events]


async def test_nothing_is_lost_or_doubled_by_kills_under_load(
    worker: Worker, start_relaying: StartRelaying, recorded: Recorded
) -> None:
    appenders = [await start_relaying() for _ in range(3)]
    told: dict[UUID, Any] = {}
    ended = False

    async def send(appender: RelayingAppender) -> None:
        while not ended:
            event = new_event()
            (told[event.event_id],) = await append_at_once(appender, [event])

    senders = [asyncio.create_task(send(one)) for one in appenders for _ in range(10)]
    for _ in range(3):
        await asyncio.gather(*map(until_linked, appenders))
        await asyncio.sleep(0.3)
        worker.kill()
        await asyncio.sleep(0.05)
        worker.restart()
    await asyncio.gather(*map(until_linked, appenders))
    ended = True
    await asyncio.gather(*senders)
    on_record = await recorded()
    assert set(map(type, told.values())) == {Appended}
    assert {on_record[one.position - 1]: one.position for one in told.values()} == {
        id_: one.position for id_, one in told.items()
    }
    assert len(on_record) == len(told)


async def test_a_worker_that_stops_in_order_answers_what_it_has_and_the_rest_goes_on(
    worker: Worker, start_relaying: StartRelaying, recorded: Recorded
) -> None:
    appender = await start_relaying()
    waiting = [asyncio.create_task(append_at_once(appender, [new_event()])) for _ in range(500)]
    await asyncio.sleep(0)
    worker.process.terminate()
    answers = itertools.chain.from_iterable(await asyncio.gather(*waiting))
    assert {*positions([*answers])} == {*range(1, 501)}
    await asyncio.to_thread(worker.process.wait, 10)
    assert (await appender.append(new_event())).position == 501
    assert len(await recorded()) == 501


async def test_events_do_not_wait_for_a_worker_that_stands_still_nor_come_twice_when_it_goes_on(
    worker: Worker, start_relaying: StartRelaying, recorded: Recorded
) -> None:
    appender = await start_relaying()
    await appender.append(first := new_event())
    worker.process.send_signal(signal.SIGSTOP)
    handed = asyncio.create_task(append_at_once(appender, [held_up := new_event()]))
    await asyncio.sleep(SILENT_SECONDS + 1)
    assert (await appender.append(later := new_event())).position == 2
    assert not handed.done()
    worker.process.send_signal(signal.SIGCONT)
    assert positions(await handed) == [3]
    await until_linked(appender)
    await appender.append(last := new_event())
    assert await recorded() == [one.event_id for one in (first, later, held_up, last)]


@pytest.mark.usefixtures("server")
async def test_what_waits_for_its_turn_is_bounded(
    start_relaying: StartRelaying, connection: "Connection[Record]"
) -> None:
    appender = await start_relaying(Limits(queue_deliveries=3, batch_deliveries=1))
    async with nobody_appends(connection):
        waiting = []
        # Two are handed over, three wait.
        for _ in range(5):
            waiting.append(asyncio.create_task(append_at_once(appender, [new_event()])))
            await asyncio.sleep(0.02)
        with pytest.raises(QueueFullError):
            await appender.append(new_event())
    answers = itertools.chain.from_iterable(await asyncio.gather(*waiting))
    assert positions([*answers]) == [1, 2, 3, 4, 5]


async def test_what_has_no_commit_by_its_deadline_is_told_so_and_appended_by_nobody_later(
    server: Appender,
    start_relaying: StartRelaying,
    recorded: Recorded,
    connection: "Connection[Record]",
) -> None:
    appender = await start_relaying(Limits(append_seconds=0.3, batch_deliveries=1))
    async with nobody_appends(connection):
        before = asyncio.create_task(append_at_once(server, [new_event()]))
        await asyncio.sleep(0.05)
        # Two wait there, two here.
        events = [new_event() for _ in range(4)]
        assert positions(await append_at_once(appender, events)) == [UnavailableError] * 4
    assert positions(await before) == [1]
    await append_at_last(appender)
    assert len(await recorded()) == 2


@pytest.mark.usefixtures("server")
async def test_who_hands_over_knows_that_the_database_takes_no_appends(
    start_relaying: StartRelaying, connection: "Connection[Record]"
) -> None:
    appender = await start_relaying()
    await append_at_once(appender, [new_event() for _ in range(5)])
    await connection.execute("ALTER TABLE log_head DISABLE TRIGGER ALL")
    await connection.execute("UPDATE log_head SET position = 2")
    with pytest.raises(UnavailableError, match="ends at position 2"):
        await appender.append(new_event())

    async def told() -> bool:
        return appender.refusal is not None and appender.known_head == 5

    await until(told)


# As if the database were that of before the events after the second one.
GO_BACK = """
ALTER TABLE log_head DISABLE TRIGGER ALL;
ALTER TABLE events DISABLE TRIGGER ALL;
ALTER TABLE events_1 DISABLE TRIGGER ALL;
DELETE FROM events WHERE position > 2;
UPDATE log_head SET position = 2;
"""


async def test_what_another_worker_knew_of_the_log_guards_it_after_that_worker_is_gone(
    worker: Worker,
    start_relaying: StartRelaying,
    recorded: Recorded,
    database: Database,
    connection: "Connection[Record]",
) -> None:
    appender = await start_relaying()
    await append_at_once(appender, [new_event() for _ in range(5)])
    worker.kill()
    await until_unlinked(appender)
    await connection.execute(GO_BACK)
    with pytest.raises(UnavailableError, match="known to have reached 5"):
        await appender.append(new_event())
    assert len(await recorded()) == 2
    await accept_timeline(database)

    async def accepted() -> bool:
        return appender.refusal is None

    with capture_logs() as logs:
        await until(accepted)
    (lost,) = [one for one in logs if one["event"] == "events_lost"]
    assert (lost["first"], lost["last"]) == (3, 5)
    assert (await appender.append(new_event())).position == 3


async def test_what_was_committed_to_an_accepted_log_is_found_though_it_was_sought_further_on(
    database: Database, recorded: Recorded, connection: "Connection[Record]"
) -> None:
    """Whoever handed it over had not heard that the log went back."""
    before, after = (Appender(database.connect, DEFAULTS, lambda _: None) for _ in range(2))
    await before.start()
    await after.start()
    await append_at_once(before, [new_event() for _ in range(5)])
    told, doubt = asyncio.Event(), Doubt("a writer that is gone", 5, 1)
    outcomes: list[Any] = []

    def on_outcome(outcome: Appended | LoopledgerError) -> bool:
        outcomes.append(outcome)
        told.set()
        return True

    await connection.execute(GO_BACK)
    await accept_timeline(database)
    await append_at_once(after, [event := new_event(), *(new_event() for _ in range(5))])
    before.take_over([Pending(event, 1, asyncio.get_running_loop().time() + 10, on_outcome)], doubt)
    await asyncio.wait_for(told.wait(), 5)
    assert positions(outcomes) == [3]
    assert (await recorded()).count(event.event_id) == 1
    await before.stop()
    await after.stop()


async def test_a_worker_without_descriptors_for_a_while_reaches_the_next_one_all_the_same(
    worker: Worker, start_relaying: StartRelaying
) -> None:
    appender = await start_relaying()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        worker.kill()
        await until_unlinked(appender)
        await asyncio.sleep(2 * RECONNECT_SECONDS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    worker.restart()
    await until_linked(appender)


async def test_stopping_tells_who_waits(
    worker: Worker, start_relaying: StartRelaying, connection: "Connection[Record]"
) -> None:
    appender = await start_relaying(Limits(drain_seconds=0.2))
    async with nobody_appends(connection):
        events = [new_event() for _ in range(5)]
        waiting = asyncio.ensure_future(append_at_once(appender, events))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(appender.stop(), 2)
        answers = await asyncio.wait_for(waiting, 1)
    assert positions(answers) == [UnavailableError] * 5
    assert worker.process.poll() is None
