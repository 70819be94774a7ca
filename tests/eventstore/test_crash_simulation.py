"""Appenders and projectors under random faults: whatever dies, the log and its folds keep their promises.

Two appenders and two rival sets of projectors work on one real Postgres while connections are lost, sessions killed,
appenders stopped and started again, projectors cancelled, and deliveries sent that the database refuses.

CRASH_SEED is the first seed (a failing run names its own), CRASH_ROUNDS how many follow it.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import msgspec
import pytest

from eventstore.errors import LoopledgerError, QueueFullError, RefusedError, UnavailableError
from eventstore.fold.folding import fold
from eventstore.fold.projector import Projector
from eventstore.fold.registry import Registry
from eventstore.limits import Limits
from eventstore.log.events import Appended, Event, NewEvent
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.failures import is_outage
from projections import load_projections
from providers import load_providers
from tests.conftest import Cluster
from tests.support import NOON, new_event
from tests.support.fault_injection import FaultyDatabase, planned_faults, random_faults
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

T = TypeVar("T")

FIRST_SEED = int(os.environ.get("CRASH_SEED", "1"))
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "6"))

PROVIDERS = load_providers({})
PROJECTIONS = load_projections()
SENDERS = 12
DELIVERIES = 40
# Of all statements.
FAULT_SHARE = 0.08
LIMITS = Limits(
    queue_deliveries=15,
    batch_deliveries=8,
    append_seconds=3.0,
    fold_events=7,
    poll_seconds=0.02,
    drain_seconds=0.1,
    pool_connections=8,
)


class Sent(NamedTuple):
    """A delivery, who sent it, and what became of it; `outcome` is None if its sender was cancelled."""

    sender: int
    event: NewEvent
    poison: bool
    outcome: Appended | LoopledgerError | None


class World:
    """One database and everything that works on it, and what works against it."""

    def __init__(self, dsn: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.faults = random_faults(seed, FAULT_SHARE)
        self.sent: list[Sent] = []
        self._trouble = True
        self._dsn = dsn
        self._database = FaultyDatabase(dsn, self.faults)
        self._log = Log(self._database, LIMITS)
        self._appenders: list[Log] = []
        self._projectors: list[tuple[Projector[Any], asyncio.Task[None]]] = []

    async def run(self) -> None:
        """Let everyone loose until the senders are done; then let it come to rest without faults."""
        await self._database.open()
        self.faults.on = False
        await self._log.start(append=False)
        self._appenders = [await self._started_log() for _ in range(2)]
        for _ in range(2):
            for projection in PROJECTIONS.values():
                projector = self._projector(projection)
                await projector.set_up()
                self._projectors.append((projector, asyncio.create_task(projector.run())))
        self.faults.on = True
        villains = [
            asyncio.create_task(villain())
            for villain in (self._kill_sessions, self._restart_appenders, self._cancel_projectors)
        ]
        senders = [asyncio.create_task(self._send(number)) for number in range(SENDERS)]
        await within(30, "the senders get their answers", asyncio.gather(*senders))
        self._trouble = False
        await within(10, "the villains end", asyncio.gather(*villains))
        self.faults.on = False

    async def rest(self) -> None:
        """Stop the appenders, then let the projectors reach the head, then stop them."""
        for log in self._appenders:
            await within(5, "an appender stops", log.stop())
        connection = await asyncpg.connect(self._dsn)
        head = await connection.fetchval(LOG["read_head"])
        await connection.close()
        registry = Registry(self._database)
        for name in PROJECTIONS:
            await within(15, f"{name} reaches the head", registry.wait_for(name, head, 14))
        for projector, task in self._projectors:
            assert not task.done(), projector.error
            task.cancel()
            await within(5, "a projector stops", asyncio.wait([task]))
        await self._log.stop()
        await self._database.close()

    async def _send(self, number: int) -> None:
        """One after the other, and now and then a burst that a queue cannot hold."""
        burst = 40 if number == 0 else 1
        for _ in range(DELIVERIES // burst):
            await asyncio.gather(*(self._deliver(number) for _ in range(burst)))

    async def _deliver(self, sender: int) -> None:
        event, poison = self._event()
        log = self.random.choice(self._appenders)
        append = asyncio.create_task(log.appender.append(event))
        if self.random.random() < 0.05:
            await asyncio.wait([append], timeout=self.random.uniform(0, 0.02))
            append.cancel()
        outcome: Appended | LoopledgerError | None = None
        try:
            outcome = await append
        except (QueueFullError, RefusedError, UnavailableError) as error:
            outcome = error
        except asyncio.CancelledError:
            pass
        self.sent.append(Sent(sender, event, poison, outcome))
        if isinstance(outcome, UnavailableError):
            await asyncio.sleep(0.01)

    def _event(self) -> tuple[NewEvent, bool]:
        chance = self.random
        what = chance.choice(["gift-card.updated"] * 3 + ["gift-card.deleted", "location.updated"])
        body: dict[str, object] = {"id": f"x-{chance.randrange(4)}", "gan": chance.randrange(99)}
        if chance.random() < 0.8:
            body["updated_on"] = (NOON + timedelta(seconds=chance.randrange(9))).isoformat()
        if chance.random() < 0.05:
            # The log takes what a projection's table will not.
            body["status"] = chance.choice(["\0", ["no text"], "\ud800"])
        event = new_event(what, body, merchant=f"m-{chance.randrange(2)}")
        event = msgspec.structs.replace(
            event, event_id=UUID(int=chance.getrandbits(128)), headers=os.urandom(8)
        )
        if chance.random() >= 0.05:
            return event, False
        topic = chance.choice(["a\0b", "\ud800", "a\x1eb"])
        return msgspec.structs.replace(event, topic=topic), True

    async def _kill_sessions(self) -> None:
        """Let the server end one session after the other, whatever it is at."""
        connection = await asyncpg.connect(self._dsn)
        try:
            while self._trouble:
                await asyncio.sleep(self.random.uniform(0, 0.1))
                rows = await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() ORDER BY pid"
                )
                if rows:
                    pid = self.random.choice(rows)["pid"]
                    self.faults.trace.append(f"killed session {pid}")
                    await connection.execute("SELECT pg_terminate_backend($1)", pid)
        finally:
            connection.terminate()

    async def _restart_appenders(self) -> None:
        while self._trouble:
            await asyncio.sleep(self.random.uniform(0, 0.4))
            number = self.random.randrange(2)
            fresh = await self._started_log()
            old, self._appenders[number] = self._appenders[number], fresh
            self.faults.trace.append(f"stopped appender {number}")
            await within(5, "an appender stops", old.stop())

    async def _started_log(self) -> Log:
        while True:
            log = Log(self._database, LIMITS)
            try:
                await log.start()
            except Exception as error:
                await log.stop()
                if not is_outage(error):
                    raise
                await asyncio.sleep(0.01)
            else:
                return log

    async def _cancel_projectors(self) -> None:
        while self._trouble:
            await asyncio.sleep(self.random.uniform(0, 0.1))
            number = self.random.randrange(len(self._projectors))
            projector, task = self._projectors[number]
            assert not task.done(), projector.error
            task.cancel()
            self.faults.trace.append(f"cancelled projector {number}")
            await within(5, "a projector stops", asyncio.wait([task]))
            fresh = self._projector(projector.projection)
            self._projectors[number] = fresh, asyncio.create_task(fresh.run())

    def _projector(self, projection: Any) -> Projector[Any]:  # noqa: ANN401 - of any state
        return Projector(
            projection,
            sources=PROVIDERS,
            database=self._database,
            reader=self._log.reader,
            head=self._log.head,
            registry=Registry(self._database),
            limits=LIMITS,
        )


async def within(seconds: float, what: str, awaitable: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError:
        message = f"not within {seconds} s: {what}"
        raise AssertionError(message) from None


async def check_log(connection: "Connection[Record]", sent: Sequence[Sent]) -> list[Event]:
    """Every promise of the log."""
    rows = await connection.fetch("SELECT * FROM events ORDER BY position")
    events = {one.event.event_id: one for one in sent}
    recorded = {row["event_id"]: row for row in rows}
    # Positions without a hole, up to the head; nothing twice.
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    assert await connection.fetchval(LOG["read_head"]) == len(rows)
    assert len(recorded) == len(rows)
    times = [row["recorded_at"] for row in rows]
    assert times == sorted(times)
    # Nothing that was not sent, nothing otherwise than it was sent.
    for row in rows:
        event = events[row["event_id"]].event
        assert {name: row[name] for name in event.__struct_fields__} == msgspec.structs.asdict(
            event
        )
    # Everybody was told the truth.
    for one in sent:
        found = recorded.get(one.event.event_id)
        if isinstance(one.outcome, Appended):
            assert found is not None
            assert Appended(found["position"], found["recorded_at"]) == one.outcome
        if one.poison or isinstance(one.outcome, QueueFullError | RefusedError):
            assert found is None
        assert one.poison or not isinstance(one.outcome, RefusedError)
    # Who waited for an answer before sending the next is on record in that order.
    for sender in range(1, SENDERS):
        told = [s.outcome for s in sent if s.sender == sender and isinstance(s.outcome, Appended)]
        assert told == sorted(told, key=lambda appended: appended.position)
    return [Event(*(row[name] for name in Event.__struct_fields__)) for row in rows]


async def check_projections(connection: "Connection[Record]", log: Sequence[Event]) -> None:
    """Every projection is complete, and its states are a fresh fold of the log."""
    for name, projection in PROJECTIONS.items():
        registered = await connection.fetchrow("SELECT * FROM projections WHERE name = $1", name)
        assert registered is not None
        refused = {
            row["position"]
            for row in await connection.fetch(
                "SELECT position FROM quarantine WHERE projection = $1", name
            )
        }
        states: dict[str, Any] = {}
        verdicts = []
        for event in log:
            before = states.get(event.stream)
            folded = fold(projection, PROVIDERS, before, event)
            verdict, state = folded.verdict, folded.state
            # Postgres keeps no NUL and no surrogate.
            assert verdict != "quarantined" or event.position in refused
            if event.position in refused:
                verdict = "quarantined"
            elif verdict != "ignored":
                states[event.stream] = state
            verdicts.append(verdict)
        ignored, quarantined = verdicts.count("ignored"), verdicts.count("quarantined")
        assert quarantined == len(refused)
        assert registered["checkpoint"] == len(log)
        assert (registered["ignored"], registered["quarantined"]) == (ignored, quarantined)
        assert registered["folded"] == len(log) - ignored - quarantined
        rows = await connection.fetch(f"SELECT * FROM projected.{name}_1")  # noqa: S608 - a name of ours
        found = {
            row["stream"]: projection.state(*(row[f] for f in projection.state.__struct_fields__))
            for row in rows
        }
        assert found == states


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS))
async def test_whatever_fails_the_log_and_its_folds_keep_their_promises(
    cluster: Cluster, seed: int
) -> None:
    async with cluster.database() as dsn:
        world = World(dsn, seed)
        try:
            await world.run()
            await world.rest()
            connection = await asyncpg.connect(dsn)
            await check_projections(connection, await check_log(connection, world.sent))
            await connection.close()
        except Exception as error:
            trace = "\n".join(world.faults.trace)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            error.add_note(f"{trace}\nCRASH_SEED={seed} CRASH_ROUNDS=1 tries it again")
            raise
        # The run was worth its while.
        outcomes = {type(one.outcome) for one in world.sent}
        assert {Appended, QueueFullError, RefusedError} <= outcomes
        assert len(world.faults.trace) > 30


async def test_a_projector_stops_when_cancelled_even_if_its_connection_dies_meanwhile(
    dsn: str, connection: "Connection[Record]"
) -> None:
    database = FaultyDatabase(dsn, planned_faults([("write_batch", "dies cancelled")]))
    await database.open()
    log = Log(database, LIMITS)
    await log.start()
    projector = Projector(
        PROJECTIONS["locations"],
        sources=PROVIDERS,
        database=database,
        reader=log.reader,
        head=log.head,
        registry=Registry(database),
        limits=LIMITS,
    )
    await projector.set_up()
    await log.appender.append(new_event())
    async with connection.transaction():
        await connection.execute("SELECT FROM projections FOR UPDATE")
        task = asyncio.create_task(projector.run())
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        cancelled = task.cancelled()
        task.cancel()
    await log.stop()
    await asyncio.wait([task], timeout=2)
    await database.close()
    assert cancelled
