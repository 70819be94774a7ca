"""Rebuilds that meet trouble: whatever dies, fails or is asked for at a bad time, what is answered stays right.

CRASH_SEED is the seed of the killing; a failing run names its own.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.fold import projector
from eventstore.fold.generation import GenerationTables
from eventstore.fold.writing import GenerationWriter
from eventstore.limits import Limits
from eventstore.log.events import Event
from eventstore.postgres.database import Database
from eventstore.postgres.failures import describe
from eventstore.rebuild import build, conductor
from eventstore.rebuild.build import Build
from eventstore.rebuild.builder import Builder, TooManyStreamsError
from eventstore.rebuild.lifecycle import Lifecycle
from eventstore.rebuild.messages import BuildCounts, BuilderSettings, Job, Range
from eventstore.rebuild.pool import BuilderPool, BuildFailedError
from projections import load_projections
from providers import load_providers, loopz
from providers.facts import Fact
from providers.fitbank import Settings as FitBankSettings
from providers.provider import UndecodableError
from runtime import wiring
from runtime.builder_process import make_builder
from tests.conftest import Cluster, StartLoopledger
from tests.eventstore.fold.test_properties import Live, logs, of_tenant, to_event, wild_deliveries
from tests.eventstore.rebuild.test_rebuild import post, send_cards, send_cash, until
from tests.support import NOON, Client, new_event, reference_model, values
from tests.support.log import Log
from tests.support.reference_model import Sent
from tests.support.server_process import ServerProcess

if TYPE_CHECKING:
    from asyncpg import Connection, Record

SEED = int(os.environ.get("CRASH_SEED", "1"))
KILLS = int(os.environ.get("CRASH_KILLS", "4"))

PROVIDERS = load_providers({})
PROJECTIONS = load_projections()
LIMITS = Limits(poll_seconds=0.05, pool_connections=5, rebuild_processes=1)
SWAPPED = {"fitbank": FitBankSettings(cash_methods_swapped=True)}
CARDS = "/v1/projections/gift_cards"
CASH = "/v1/projections/transactions"


class QuickBuilderPool(BuilderPool):
    """Builders in this very process: quick to start, and with the code of this test."""

    async def build_ranges(self, job: Job, on_progress: Callable[[int], None]) -> BuildCounts:
        """Build range by range, as builder processes do."""
        builder_settings = msgspec.json.decode(self._settings, type=BuilderSettings)
        builder = make_builder(builder_settings, job)
        database = Database(builder_settings.dsn, pool_connections=1)
        try:
            built, _ = await build_all(builder, database, on_progress)
        except Exception as error:
            raise BuildFailedError(problem=describe(error)) from error
        return built


async def build_all(
    builder: Builder[Any], database: Database, progress: Callable[[int], None] = lambda _: None
) -> tuple[BuildCounts, int]:
    """Build a whole generation; gives back how many passes it took, too."""
    left, passes, folded, quarantined = Range().split(2), 0, 0, 0
    while left:
        part = left.pop()
        passes += 1
        try:
            built = await builder.build_range(database.connect, part, progress)
        except TooManyStreamsError as error:
            left += part.split(error.parts)
        else:
            folded += built.folded
            quarantined += built.quarantined
    return BuildCounts(folded, quarantined), passes


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in this process, and look often."""
    monkeypatch.setattr(wiring, "BuilderPool", QuickBuilderPool)
    hurry(monkeypatch)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, with builder processes as they are."""
    hurry(monkeypatch)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "IDLE_POLL_SECONDS", 0.05)
    monkeypatch.setattr(build, "REPORT_SECONDS", 0.05)
    monkeypatch.setattr(build, "PAUSE_SECONDS", 0.05)


@asynccontextmanager
async def running(start: StartLoopledger, **changes: object) -> AsyncIterator[Client]:
    """A Loopledger and who speaks to it."""
    async with (
        start(**{"limits": LIMITS, **changes}) as one,
        aiohttp.ClientSession(one.url) as session,
    ):
        yield Client(session)


async def settled(client: Client, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
    """Rebuild; gives the rebuild once it is ready or has failed."""
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    answer = await client.request("POST", f"{path}/rebuild?{query}")
    assert answer.status == 202, answer.json
    return await until(
        client, f"{path}/rebuild", lambda r: r.get("status") in {"ready", "failed", 404}
    )


async def ready(client: Client, path: str) -> Any:  # noqa: ANN401 - JSON
    found = await settled(client, path)
    assert found["status"] == "ready", found
    return found


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until it holds; what it gives may have to be awaited."""
    async with asyncio.timeout(10):
        while True:
            found = condition()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)


async def level(client: Client, path: str) -> Any:  # noqa: ANN401 - JSON
    """Where the live generation stands once nothing waits for it."""
    return await until(client, path, lambda p: p["lag"] == 0)


async def differences(
    connection: "Connection[Record]", name: str, one: int, other: int
) -> dict[str, list[Any]]:
    """What only one of two generations holds, by table; empty if they are equal."""
    projection = PROJECTIONS[name]
    tables = [name] if projection.journal is None else [name, projection.journal.name]
    selects = {table: (f"TABLE {table}_{one}", f"TABLE {table}_{other}") for table in tables}
    selects["quarantine"] = tuple(  # type: ignore[assignment]
        f"SELECT position, stream FROM quarantine WHERE projection = '{name}' AND generation = {n}"  # noqa: S608
        for n in (one, other)
    )
    selects["counts"] = tuple(  # type: ignore[assignment]
        f"SELECT checkpoint, folded, ignored, quarantined FROM projections"  # noqa: S608
        f" WHERE name = '{name}' AND generation = {n}"
        for n in (one, other)
    )
    found = {}
    for table, (left, right) in selects.items():
        rows = await connection.fetch(
            f"(({left}) EXCEPT ALL ({right})) UNION ALL (({right}) EXCEPT ALL ({left}))"
        )
        if rows:
            found[table] = values(rows)
    return found


async def leftovers(connection: "Connection[Record]") -> set[str]:
    """Tables of generations that are not registered."""
    tables = {name for (name,) in values(await connection.fetch("SELECT tablename FROM pg_tables"))}
    registered = set()
    for name, generation in values(
        await connection.fetch("SELECT name, generation FROM projections")
    ):
        made = GenerationTables(PROJECTIONS[name], generation).tables
        registered |= {table.name for table in made}
    bases = {t.view for p in PROJECTIONS.values() for t in GenerationTables(p, 1).tables}
    return {t for t in tables if t.rpartition("_")[0] in bases} - registered


async def fill(dsn: str, count: int, merchant: str = "m-1") -> None:
    """Put that many deliveries on record quickly."""
    database = Database(dsn, pool_connections=2)
    await database.open()
    log = Log(database, Limits())
    await log.start(follow=False)
    events = [
        new_event(
            "gift-card.updated", {"id": f"c-{n % (count // 4)}", "balance": n}, merchant=merchant
        )
        if n % 5
        else new_event("transaction.created", {"id": f"t-{n}", "amount": n, "status": "PENDING"})
        for n in range(count)
    ]
    await asyncio.gather(*map(log.appender.append, events))
    await log.stop()
    await database.close()


# Any history.


class Rebuilt(Live):
    """A log, its live generations, and generations built beside them."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__(runner, database)
        self._generation = 1

    async def rebuild(self) -> int:
        """Build every projection anew, from the first event; gives back the generation."""
        self._generation += 1
        target = await self.database.fetchval("SELECT position FROM log_head")
        for name, projection in PROJECTIONS.items():
            async with self.database.transaction() as connection:
                await GenerationTables(projection, self._generation).create(connection)
                await connection.execute(
                    "INSERT INTO projections (name, generation, status, version, target)"
                    " VALUES ($1, $2, 'retired', 1, $3)",
                    *(name, self._generation, target),
                )
            builder = Builder(
                projection,
                sources=PROVIDERS,
                generation=self._generation,
                target=target,
                limits=Limits(rebuild_events=7, rebuild_streams=20),
            )
            built, _ = await build_all(builder, self.database)
            async with self.database.transaction() as connection:
                await GenerationTables(projection, self._generation).create_indexes(connection)
            ignored = target - built.folded - built.quarantined
            await self.database.execute(
                "UPDATE projections SET checkpoint = target, folded = $3, ignored = $4,"
                " quarantined = $5 WHERE name = $1 AND generation = $2",
                *(name, self._generation, built.folded, ignored, built.quarantined),
            )
        return self._generation

    async def check(self, generation: int) -> None:
        """The generation is the live one, row by row."""
        async with self.database.transaction() as connection:
            for name in PROJECTIONS:
                assert await differences(connection, name, 1, generation) == {}  # type: ignore[arg-type]

    async def forget(self, generation: int) -> None:
        """Drop it."""
        for name, projection in PROJECTIONS.items():
            async with self.database.transaction() as connection:
                await GenerationTables(projection, generation).drop(connection)
                await connection.execute(
                    "DELETE FROM projections WHERE name = $1 AND generation = $2", name, generation
                )


@pytest.fixture(scope="module")
def rebuilds(cluster: Cluster) -> Iterator[Rebuilt]:
    with asyncio.Runner() as runner:
        databases = cluster.database()
        database = Database(runner.run(databases.__aenter__()), pool_connections=5)
        runner.run(database.open())
        found = Rebuilt(runner, database)
        runner.run(found.start())
        yield found
        runner.run(found.stop())
        runner.run(database.close())
        runner.run(databases.__aexit__(None, None, None))


@settings(max_examples=8)
@given(histories=st.lists(logs(), min_size=3, max_size=3))
def test_of_any_history_a_rebuild_is_the_live_fold_is_what_the_words_promise(
    rebuilds: Rebuilt, histories: list[list[Sent]]
) -> None:
    number = next(rebuilds.numbers)
    sent = [of_tenant(one, number) for history in histories for one in history]

    async def check() -> None:
        log = await rebuilds.append([to_event(one) for one in sent], 5)
        generation = await rebuilds.rebuild()
        await rebuilds.check(generation)
        first = log[0].position
        for name in PROJECTIONS:
            promised = reference_model.expect(name, sent)
            assert await rebuilds.states(f"{name}_{generation}", log) == promised.states
            assert await rebuilds.quarantined(name, log) == {
                first + index for index in promised.quarantined
            }
        await rebuilds.forget(generation)

    rebuilds.run(check())


# What a provider may write, and Postgres may not hold: not at all, not in an index, not in a bigint.
HARD = [
    *("\0", "\ud800", "a\0b\ud800", "s" * 1_900, "s" * 1_901, "é" * 951, "s" * 3_000, "é" * 5_000),
    *(2**63 - 1, 2**63, 2**70, -(2**63), "1e400", "9223372036854775808", 1e300),
]


@st.composite
def hard_deliveries(draw: st.DrawFn) -> Sent:
    """A delivery with something that is hard to hold."""
    topics = ["gift-card.updated", "transaction.updated", "location.updated", "gift-card.odd"]
    fields = ["status", "code", "type", "name", "balance", "gift_card_id", "external_id"]
    body: Any = {"id": draw(st.sampled_from(["x-1", "x-2", "x" * 1_950, "\ud800", "\0"]))}
    for name in draw(st.lists(st.sampled_from(fields), max_size=2)):
        # The journal's difference of two balances has a test of its own.
        hard = [one for one in HARD if name != "balance" or one != 2**63 - 1]
        body[name] = draw(st.sampled_from(hard))
    topic = draw(st.sampled_from(topics))
    return Sent(
        "loopz",
        topic,
        "0",
        None,
        body,
        NOON,
    )


@settings(max_examples=8)
@given(deliveries=st.lists(wild_deliveries() | hard_deliveries(), min_size=8, max_size=30))
def test_what_postgres_cannot_hold_is_in_quarantine_after_a_rebuild_as_it_is_live(
    rebuilds: Rebuilt, deliveries: list[Sent]
) -> None:
    number = next(rebuilds.numbers)
    events = [to_event(of_tenant(one, number)) for one in deliveries]

    async def check() -> None:
        await rebuilds.append(events, 7)
        generation = await rebuilds.rebuild()
        await rebuilds.check(generation)
        await rebuilds.forget(generation)

    rebuilds.run(check())


@pytest.mark.usefixtures("quick")
async def test_a_balance_that_changes_by_more_than_64_bits_does_not_make_rebuilds_impossible(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        for balance in (2**63 - 1, 1 - 2**63, 5):
            await client.loopz("gift-card.updated", {"id": "c-1", "balance": balance})
        await level(client, CARDS)
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 1, 2) == {}


# Killing.


class Prey:
    """A real server over a database of its own, a sender and a reader, and what may be killed of it."""

    def __init__(self, server: ServerProcess, dsn: str, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.trace: list[str] = []
        self.sent = 0
        self.up = True
        self.problems: list[str] = []
        self._dsn = dsn

    def builders(self) -> list[psutil.Process]:
        """Every builder process over this database, whoever started it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    any("runtime.builder_process" in word for word in process.cmdline())
                    and process.environ().get("DATABASE_URL") == self._dsn
                ):
                    found.append(process)
        return found

    async def kill(self, what: str, connection: "Connection[Record]") -> None:
        """Kill one thing."""
        self.trace.append(what)
        if what == "sessions":
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        pids = {
            "builder": lambda: [process.pid for process in self.builders()],
            "projecting": lambda: self.server.workers("projecting"),
        }[what]()
        self.trace[-1] += f" {pids}"
        for pid in pids[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def keep_sending(client: Client, prey: Prey) -> None:
    """One delivery after the other; who is away is asked again."""
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            answer = await client.loopz(
                "gift-card.updated", {"id": f"c-{prey.sent % 50}", "balance": prey.sent}
            )
            prey.sent += answer.status == 200
        await asyncio.sleep(0.01)


async def keep_reading(client: Client, prey: Prey) -> None:
    """A card goes never back, and is always there."""
    position = 0
    while True:
        try:
            answer = await client.get("/v1/gift-cards/c-1")
        except aiohttp.ClientError as error:
            if prey.up:
                prey.problems.append(repr(error))
        else:
            if answer.status == 200:
                if answer.json["position"] < position:
                    prey.problems.append(f"{answer.json['position']} after {position}")
                position = answer.json["position"]
            elif answer.status != 503 or prey.trace[-1:] != ["sessions"]:
                prey.problems.append(f"{answer.status} {answer.json}")
        await asyncio.sleep(0.02)


async def sure_of_a_rebuild(client: Client, prey: Prey) -> Any:  # noqa: ANN401 - JSON
    """Have a rebuild become ready, beginning it again whenever it fails for a reason that was our doing."""
    async with asyncio.timeout(60):
        while True:
            with suppress(aiohttp.ClientError):
                now = (await client.get(f"{CARDS}/rebuild")).json
                if now.get("status") == "ready":
                    return now
                if now["status"] in {404, "failed"}:
                    if now["status"] == "failed":
                        assert "builder process died" in now["error"], now
                        prey.trace.append(now["error"])
                    await client.request("POST", f"{CARDS}/rebuild")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def meanwhile(*coroutines: Any) -> AsyncIterator[None]:  # noqa: ANN401 - of anything
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_rebuild_survives_whatever_is_killed_and_comes_out_right(
    cluster: Cluster, public_directory: Path
) -> None:
    async with cluster.database() as dsn:
        await fill(dsn, 6_000)
        environ = {
            "DATABASE_URL": dsn,
            "LOOPLEDGER_LIMITS_REBUILD_EVENTS": "300",
            "LOOPLEDGER_LIMITS_REBUILD_PROCESSES": "2",
            "LOOPLEDGER_LIMITS_REBUILD_STREAMS": "600",
        }
        directory = public_directory / "killed"
        server = await asyncio.to_thread(ServerProcess, directory, environ=environ)
        prey = Prey(server, dsn, SEED)
        connection = await asyncpg.connect(dsn)
        try:
            async with aiohttp.ClientSession(server.url) as session:
                client = Client(session)
                await level(client, CARDS)
                async with meanwhile(keep_sending(client, prey), keep_reading(client, prey)):
                    for _ in range(KILLS):
                        await client.request("POST", f"{CARDS}/rebuild")
                        await asyncio.sleep(prey.chance.uniform(0, 2))
                        what = prey.chance.choice(["builder", "builder", "projecting", "sessions"])
                        await prey.kill(what, connection)
                    await sure_of_a_rebuild(client, prey)
                assert prey.problems == []
                assert prey.sent > 50
                await level(client, CARDS)
                found = await until(client, f"{CARDS}/rebuild", lambda r: r["lag"] == 0)
                assert await differences(connection, "gift_cards", 1, found["generation"]) == {}
                assert await leftovers(connection) == set()
            # The whole server, from the parent down; builders are left to notice it themselves.
            async with aiohttp.ClientSession(server.url) as session:
                client = Client(session)
                await post(client, f"{CARDS}/discard")
                await client.request("POST", f"{CARDS}/rebuild")
                await eventually(prey.builders)
            for pid in [server.process.pid, *server.workers("projecting"), *server.workers("http")]:
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not prey.builders())
            await asyncio.to_thread(server.process.wait)
            server = await asyncio.to_thread(ServerProcess, directory, environ=environ)
            prey.server = server
            async with aiohttp.ClientSession(server.url) as session:
                client = Client(session)
                found = await sure_of_a_rebuild(client, prey)
                await level(client, CARDS)
                await until(client, f"{CARDS}/rebuild", lambda r: r["lag"] == 0)
                assert await differences(connection, "gift_cards", 1, found["generation"]) == {}
                assert found["diff"]["rows"]["changed"] == 0
                assert await leftovers(connection) == set()
                assert prey.builders() == []
        except BaseException as error:
            error.add_note(f"{prey.trace}\nCRASH_SEED={SEED} tries it again")
            raise
        finally:
            await connection.close()
            await asyncio.to_thread(server.stop)


# Promotion while deliveries keep coming.


@pytest.mark.usefixtures("often")
async def test_who_reads_and_sends_while_a_generation_is_promoted_notices_nothing(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 20, 3)
        balance, ends = 0, False

        async def use() -> None:
            nonlocal balance
            while not ends:
                balance += 1
                sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": balance})
                assert sent.status == 200, sent.json
                at_least = sent.json["position"]
                answer = await client.get(f"/v1/gift-cards/c-1?at_least={at_least}")
                assert answer.status == 200, answer.json
                assert (answer.json["position"], answer.json["balance"]) == (at_least, balance)

        using = asyncio.create_task(use())
        await ready(client, CARDS)
        before = balance
        follows = await until(client, f"{CARDS}/rebuild", lambda r: r["checkpoint"] > r["target"])
        assert (
            follows["folded"] + follows["ignored"] + follows["quarantined"] == follows["checkpoint"]
        )
        for what in ("promote", "rollback", "rollback"):
            await post(client, f"{CARDS}/{what}")
        ends = True
        await using
        assert balance > before
        assert (await level(client, CARDS))["generation"] == 2
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 2, 3) == {}


@pytest.mark.usefixtures("quick")
async def test_a_report_that_runs_for_long_holds_up_a_promotion_but_nobody_who_reads(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        async with connection.transaction():
            await connection.fetch("SELECT * FROM gift_cards")
            async with meanwhile(client.request("POST", f"{CARDS}/promote")):
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                async with asyncio.timeout(5):
                    await eventually(lambda: connection.fetchval(waiting))
                    assert (await client.get("/v1/gift-cards/c-1")).status == 200
                    sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 8})
                    at_least = sent.json["position"]
                    answer = await client.get(f"/v1/gift-cards/c-1?at_least={at_least}")
                    assert answer.json["balance"] == 8
        await until(client, CARDS, lambda p: p["generation"] == 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("generation", [1, 2])
async def test_a_connection_that_is_lost_while_it_folds_does_not_cost_a_generation_that_is_ready(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    write_batch, lost = GenerationWriter.write_batch, asyncio.Event()

    async def lose(self: GenerationWriter[Any], *arguments: Any) -> bool:  # noqa: ANN401
        written = await write_batch(self, *arguments)
        if self._tables.generation == generation and not lost.is_set():
            lost.set()
            message = "after the commit, before its answer"
            raise ConnectionResetError(message)
        return written

    monkeypatch.setattr(projector, "FIRST_PAUSE", 0.5)
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        monkeypatch.setattr(GenerationWriter, "write_batch", lose)
        await client.loopz("gift-card.updated", {"id": "c-1", "balance": 8})
        await asyncio.wait_for(lost.wait(), 5)
        await client.request("POST", f"{CARDS}/promote")
        shown = await until(
            client,
            CARDS,
            lambda p: p["generations"][-1]["status"] in {"live", "failed"},
        )
        assert (shown["generation"], shown["lag"]) == (2, 0), shown


# Quarantine.


def broken(topics: Sequence[str], decode: Callable[[Event], Fact] = loopz.decode) -> Any:  # noqa: ANN401
    """Give a decoder with a fault: it cannot read these topics."""

    def decode_some(event: Event) -> Fact:
        if event.topic in topics:
            raise UndecodableError(field="everything", problem="is unreadable")
        return decode(event)

    return decode_some


@pytest.mark.usefixtures("often")
async def test_what_a_fault_of_the_code_put_in_quarantine_is_folded_by_a_rebuild(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = loopz.decode
    monkeypatch.setattr(loopz, "decode", broken(["gift-card.deleted"]))
    async with running(start) as client:
        for n in range(6):
            await client.loopz("gift-card.updated", {"id": f"c-{n}", "balance": n})
            await client.loopz("gift-card.deleted", {"id": f"c-{n}"})
        await client.loopz("gift-card.updated", {"id": "c-1", "balance": "never right"})
        assert (await level(client, CARDS))["quarantined"] == 7
    monkeypatch.setattr(loopz, "decode", decode)
    async with running(start) as client:
        assert (await level(client, CARDS))["stale"]
        found = await ready(client, CARDS)
        assert (found["folded"], found["quarantined"]) == (12, 1)
        assert found["diff"]["rows"]["changed"] == 6
        assert found["diff"]["columns"] == {"position": 6, "deleted_at": 6}
        promoted = await post(client, f"{CARDS}/promote")
        assert (promoted["stale"], promoted["quarantined"]) == (False, 1)
        items = (await client.get(f"{CARDS}/quarantine")).json["items"]
        assert [item["position"] for item in items] == [13]
        assert len((await client.get("/v1/gift-cards?deleted=true")).json["items"]) == 6
    assert await leftovers(connection) == set()


# Memory.


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("counted", [True, False], ids=["foreseen", "not foreseen"])
@pytest.mark.parametrize("processes", [1, 2])
async def test_builders_that_may_hold_few_streams_make_several_passes_and_nothing_twice(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    processes: int,
    *,
    counted: bool,
) -> None:
    await fill(dsn, 800)
    limits = msgspec.structs.replace(
        LIMITS, rebuild_streams=10, rebuild_events=400, rebuild_processes=processes
    )
    async with running(start, limits=limits) as client:
        await level(client, CARDS)
        if counted:
            await connection.execute("ANALYZE gift_cards_1")
        found = await ready(client, CARDS)
        assert (found["folded"], found["ignored"]) == (640, 160)
        assert await differences(connection, "gift_cards", 1, 2) == {}


# Two at once, discarded, failed.


@pytest.mark.usefixtures("often")
async def test_two_projections_are_rebuilt_at_once(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 2)
        await send_cash(client, 3)
        await asyncio.gather(ready(client, CARDS), ready(client, CASH))
        await asyncio.gather(post(client, f"{CARDS}/promote"), post(client, f"{CASH}/promote"))
        for name in ("gift_cards", "transactions"):
            assert await differences(connection, name, 1, 2) == {}


@pytest.mark.usefixtures("often")
async def test_a_rebuild_that_is_discarded_while_it_is_built_ends_at_once_and_leaves_nothing(
    start: StartLoopledger, dsn: str, connection: "Connection[Record]"
) -> None:
    await fill(dsn, 2_000)
    limits = msgspec.structs.replace(LIMITS, rebuild_events=5)
    async with running(start, limits=limits) as client:
        await level(client, CARDS)
        await client.request("POST", f"{CARDS}/rebuild")
        await until(client, f"{CARDS}/rebuild", lambda r: 0 < r["percent"] < 100)
        children = psutil.Process().children()
        builders = [one for one in children if "runtime.builder_process" in " ".join(one.cmdline())]
        assert builders
        async with asyncio.timeout(2):
            await post(client, f"{CARDS}/discard")
        assert not any(one.is_running() for one in builders)
        assert await leftovers(connection) == set()
        assert await connection.fetchval("SELECT count(*) FROM projections") == 3
        assert (await client.get("/v1/gift-cards/c-1")).status == 200


# Whoever makes a table for the states of cards gets one that refuses its rows.
TROUBLE = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION HOW; END $$;
CREATE FUNCTION make_trouble() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
        IF made.object_identity LIKE '%.gift\\_cards\\_%' THEN
            EXECUTE 'CREATE TRIGGER trouble BEFORE INSERT ON ' || made.object_identity
                || ' FOR EACH ROW EXECUTE FUNCTION trouble()';
        END IF;
    END LOOP;
END $$;
CREATE EVENT TRIGGER make_trouble ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
EXECUTE FUNCTION make_trouble();
"""


@pytest.mark.usefixtures("quick")
async def test_a_build_that_fails_says_why_leaves_nothing_and_can_be_replaced(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 2)
        await connection.execute(TROUBLE.replace("HOW", "'no more cards'"))
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "no more cards" in found["error"]
        assert await leftovers(connection) == set()
        assert (await client.request("POST", f"{CARDS}/promote")).status == 409
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 77})
        answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert answer.json["balance"] == 77
        await connection.execute("DROP EVENT TRIGGER make_trouble")
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 1, 2) == {}


@pytest.mark.usefixtures("often")
async def test_a_build_that_fills_the_disk_fails_instead_of_filling_it_again_and_again(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 2)
        await connection.execute(TROUBLE.replace("HOW", "USING ERRCODE = 'disk_full'"))
        async with asyncio.timeout(15):
            found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert await leftovers(connection) == set()


@pytest.mark.usefixtures("often")
async def test_a_builder_that_cannot_read_its_settings_says_so(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"fitbank": {"business_units": {"66": {"time_zone": "Nowhere/Land"}}}}
    init = BuilderPool.__init__

    def with_bad_settings(self: BuilderPool, command: Any, greeting: bytes, **others: int) -> None:  # noqa: ANN401
        told = msgspec.json.decode(greeting) | {"providers": bad}
        init(self, command, msgspec.json.encode(told), **others)

    monkeypatch.setattr(BuilderPool, "__init__", with_bad_settings)
    async with running(start) as client:
        await send_cards(client, 1, 1)
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "Nowhere/Land" in found["error"]


@pytest.mark.usefixtures("quick")
async def test_a_generation_that_somebody_looks_at_through_a_view_holds_up_no_other_projection(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 2, 1)
        await send_cash(client, 1)
        await ready(client, CARDS)
        await connection.execute("CREATE VIEW preview AS SELECT count(*) FROM gift_cards_2")
        discarding = asyncio.create_task(client.request("POST", f"{CARDS}/discard"))
        async with asyncio.timeout(8):
            await ready(client, CASH)
        await connection.execute("DROP VIEW preview")
        assert (await discarding).status == 200
        assert await leftovers(connection) == set()


# Systematic failures.

FEW = msgspec.structs.replace(LIMITS, failures_in_a_row=5, fold_events=3)


async def test_a_fold_that_fails_for_every_event_stops_before_it_fills_the_quarantine(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(start, limits=FEW) as client:
        await client.loopz("gift-card.updated", {"id": "c-0", "balance": 1})
        await level(client, CARDS)
    all_topics = [topic for topic in loopz.TOPICS if topic.startswith("gift-card")]
    monkeypatch.setattr(loopz, "decode", broken(all_topics))
    async with running(start, limits=FEW) as client:
        for n in range(12):
            await client.loopz("gift-card.updated", {"id": f"c-{n}", "balance": n})
            await client.loopz("location.updated", {"id": f"l-{n}"})
        stopped = await until(client, CARDS, lambda p: p["error"] is not None)
        assert "5 in a row" in stopped["error"]
        assert stopped["quarantined"] <= 4
        assert stopped["lag"] > 0
        answer = await client.get("/readyz")
        assert (answer.status, list(answer.json["problems"])) == (503, ["gift_cards"])
        assert (await level(client, "/v1/projections/locations"))["folded"] == 12
        assert (await client.get("/v1/gift-cards/c-0")).json["balance"] == 1
        failing, quarantined = await failures(connection)
        assert failing == quarantined <= 4
    # It is remembered: the same code gets no further at the next start.
    async with running(start, limits=FEW) as client:
        await until(client, CARDS, lambda p: p["error"] is not None)
        again = await client.loopz("gift-card.updated", {"id": "c-99"})
        await client.get(f"/v1/locations?at_least={again.json['position']}")
        assert await failures(connection) == (failing, quarantined)
    monkeypatch.undo()
    async with running(start, limits=FEW) as client:
        after = await until(client, CARDS, lambda p: p["lag"] == 0 and p["error"] is None)
        assert after["quarantined"] == quarantined
        assert await failures(connection) == (0, quarantined)
        assert (await client.get("/readyz")).status == 200


async def failures(connection: "Connection[Record]") -> tuple[int, int]:
    row = await connection.fetchrow(
        "SELECT failing, quarantined FROM projections WHERE name = 'gift_cards' AND status = 'live'"
    )
    assert row is not None
    return row["failing"], row["quarantined"]


@pytest.mark.parametrize("fold_events", [3, 1_000])
async def test_any_number_of_poison_events_among_good_ones_stops_nothing(
    start: StartLoopledger, fold_events: int
) -> None:
    limits = msgspec.structs.replace(FEW, fold_events=fold_events)
    async with running(start, limits=limits) as client:
        for n in range(8):
            for m in range(4):
                await client.loopz("gift-card.updated", {"id": f"c-{m}", "balance": "bad"})
                await client.loopz("location.updated", {"id": "l-1"})
            await client.loopz("gift-card.updated", {"id": "c-1", "balance": n})
        after = await level(client, CARDS)
        assert (after["error"], after["quarantined"], after["folded"]) == (None, 32, 8)


@pytest.mark.usefixtures("quick")
async def test_a_rebuild_by_code_that_folds_nothing_fails_and_what_is_live_stays(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(start, limits=FEW) as client:
        await send_cards(client, 10, 2)
        await level(client, CARDS)
    monkeypatch.setattr(loopz, "decode", broken(list(loopz.TOPICS)))
    async with running(start, limits=FEW) as client:
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "in a row" in found["error"]
        assert await leftovers(connection) == set()
        assert len((await client.get("/v1/gift-cards")).json["items"]) == 10


# Completeness.


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("off", [-1, 1])
async def test_a_build_whose_counts_do_not_make_up_the_whole_fails_and_what_is_live_stays(
    start: StartLoopledger,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
    off: int,
) -> None:
    count = Build._count_ignored

    async def count_wrongly(self: Build, target: int) -> int:
        return await count(self, target) + off

    monkeypatch.setattr(Build, "_count_ignored", count_wrongly)
    async with running(start) as client:
        await send_cards(client, 5, 1)
        await send_cash(client, 2)
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "incomplete" in found["error"]
        assert await leftovers(connection) == set()
        assert len((await client.get("/v1/gift-cards")).json["items"]) == 5


@pytest.mark.usefixtures("quick")
async def test_a_registry_that_does_not_add_up_fails_the_rebuild(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 1)
        await level(client, CARDS)
        await connection.execute(
            "ALTER TABLE projections DROP CONSTRAINT complete, ADD CONSTRAINT complete CHECK"
            " (folded + ignored + quarantined = CASE WHEN generation = 1 THEN checkpoint ELSE 0 END)"
        )
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "incomplete" in found["error"]
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 3})
        await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert (await level(client, CARDS))["error"] is None


# Unasked.


@pytest.mark.usefixtures("often")
async def test_with_rebuild_auto_a_stale_projection_is_rebuilt_and_promoted_by_itself(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 2, 1)
        await send_cash(client, 2)
        await level(client, CASH)
    async with running(start, providers=SWAPPED, rebuild="auto") as client:
        after = await until(client, CASH, lambda p: not p["stale"] and p["lag"] == 0)
        assert [one["generation"] for one in after["generations"]] == [1, 2]
        assert (await client.get("/v1/transactions/t-1")).json["kind"] == "deposit"
        assert (await level(client, CARDS))["generation"] == 1
    async with running(start, providers=SWAPPED, rebuild="auto") as client:
        await client.get("/v1/transactions/t-1")
        assert (await client.get(f"{CASH}/rebuild")).status == 404
        assert (await level(client, CASH))["generation"] == 2
    assert await leftovers(connection) == set()


@pytest.mark.usefixtures("quick")
async def test_with_rebuild_auto_a_rebuild_that_fails_is_not_tried_for_ever(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = 0

    async def fail(_: QuickBuilderPool, __: Job, ___: Callable[[int], None]) -> BuildCounts:
        nonlocal builds
        builds += 1
        raise BuildFailedError(problem="by intent")

    async with running(start) as client:
        await send_cash(client, 2)
        await level(client, CASH)
    monkeypatch.setattr(QuickBuilderPool, "build_ranges", fail)
    async with running(start, providers=SWAPPED, rebuild="auto") as client:
        await until(client, f"{CASH}/rebuild", lambda r: r["status"] == "failed")
        await asyncio.sleep(0.5)
        assert builds == 1
        assert (await client.get("/v1/transactions/t-1")).json["kind"] == "withdrawal"


# Rollback.


@pytest.mark.usefixtures("quick")
async def test_rollbacks_go_back_and_forth_and_what_comes_after_is_folded(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await settled(client, CARDS)
        await post(client, f"{CARDS}/promote")
        for n, generation in enumerate([1, 2, 1, 2]):
            rolled = await post(client, f"{CARDS}/rollback")
            assert rolled["generation"] == generation
            sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 100 + n})
            answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
            assert answer.json["balance"] == 100 + n
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 2, 3) == {}


@pytest.mark.usefixtures("quick")
async def test_only_the_generation_that_was_live_last_is_kept(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        for generation in (2, 3, 4):
            await ready(client, CARDS)
            assert (await post(client, f"{CARDS}/promote"))["generation"] == generation
        await until(client, CARDS, lambda p: len(p["generations"]) == 2)
        assert await leftovers(connection) == set()
        assert (await post(client, f"{CARDS}/rollback"))["generation"] == 3


@pytest.mark.usefixtures("quick")
async def test_a_retired_generation_with_fewer_columns_is_adapted_before_it_is_live_again(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        await connection.execute("ALTER TABLE gift_cards_1 DROP COLUMN gan, DROP COLUMN status")
        await connection.execute("ALTER TABLE balance_changes_1 DROP COLUMN topic")
        rolled = await post(client, f"{CARDS}/rollback")
        assert rolled["generation"] == 1
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "status": "NEW"})
        await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        found = (await client.get("/v1/gift-cards?status=NEW")).json["items"]
        assert [item["id"] for item in found] == ["c-1"]


@pytest.mark.usefixtures("quick")
async def test_after_a_rollback_one_generation_is_live_even_if_an_older_one_cannot_be_dropped(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await connection.execute("CREATE VIEW report AS SELECT count(*) FROM gift_cards_1")
        for _ in range(2):
            await ready(client, CARDS)
            await post(client, f"{CARDS}/promote")
        assert (await level(client, CARDS))["generation"] == 3
        await client.request("POST", f"{CARDS}/rollback")
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 9})
        live = "SELECT generation FROM projections WHERE name = 'gift_cards' AND status = 'live'"
        assert values(await connection.fetch(live)) == [(2,)]
        answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert answer.json["balance"] == 9


@pytest.mark.usefixtures("quick")
async def test_a_rollback_that_fails_is_not_answered_as_done(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        await connection.execute("DROP TABLE gift_cards_1")
        answer = await client.request("POST", f"{CARDS}/rollback")
        assert answer.status not in {200, 202}
        assert (await level(client, CARDS))["generation"] == 2


@pytest.mark.usefixtures("quick")
async def test_a_discard_that_comes_while_a_rollback_is_made_leaves_one_generation_live(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    promote, update = Lifecycle._promote, Lifecycle.update
    begun, read = asyncio.Event(), asyncio.Event()

    async def promote_late(self: Lifecycle, projector: Any) -> None:  # noqa: ANN401 - of any state
        begun.set()
        await read.wait()
        await promote(self, projector)

    async def update_late(self: Lifecycle, generations: Any) -> None:  # noqa: ANN401
        rebuild = generations.rebuild
        if rebuild is not None and rebuild.wanted == "discard":
            # It has been read that it is to be discarded; meanwhile it is made live.
            read.set()
            await eventually(lambda: self._live.tables.generation == 1)
        await update(self, generations)

    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        monkeypatch.setattr(Lifecycle, "_promote", promote_late)
        monkeypatch.setattr(Lifecycle, "update", update_late)
        rolling = asyncio.create_task(client.request("POST", f"{CARDS}/rollback"))
        await asyncio.wait_for(begun.wait(), 5)
        await asyncio.gather(client.request("POST", f"{CARDS}/discard"), rolling)
        live = "SELECT count(*) FROM projections WHERE name = 'gift_cards' AND status = 'live'"
        assert await connection.fetchval(live) == 1
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 4})
        answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert (answer.status, answer.json["balance"]) == (200, 4)


# Reports.


@pytest.mark.usefixtures("quick")
async def test_a_view_that_somebody_built_on_a_projection_shows_what_is_live(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 2)
        await connection.execute("CREATE ROLE reader_of_cards")
        try:
            await connection.execute("GRANT SELECT ON gift_cards TO reader_of_cards")
            await connection.execute("CREATE VIEW report AS SELECT sum(balance) FROM gift_cards")
            await ready(client, CARDS)
            for what, cards in {"promote": "gift_cards_2", "rollback": "gift_cards_1"}.items():
                await post(client, f"{CARDS}/{what}")
                sent = await client.loopz("gift-card.updated", {"id": "c-0", "balance": 50})
                await client.get(f"/v1/gift-cards?at_least={sent.json['position']}")
                balances = values(await connection.fetch(f"SELECT balance FROM {cards}"))  # noqa: S608
                assert (50,) in balances
                total = await connection.fetchval("SELECT * FROM report")
                assert total == sum(balance for (balance,) in balances)
                await connection.execute("SET ROLE reader_of_cards")
                assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 3
                await connection.execute("RESET ROLE")
        finally:
            await connection.execute("DROP OWNED BY reader_of_cards; DROP ROLE reader_of_cards")


# Several servers.


@pytest.mark.usefixtures("quick")
async def test_a_server_that_takes_over_follows_the_generation_that_another_promoted(
    start: StartLoopledger,
) -> None:
    async with AsyncExitStack() as stack:
        leading = AsyncExitStack()
        # The first to come leads; the second stands by, and knows of generation 1 alone.
        first = await leading.enter_async_context(running(start))
        stack.push_async_callback(leading.aclose)
        second = await stack.enter_async_context(running(start))
        await send_cards(first, 3, 1)
        await ready(first, CARDS)
        await post(first, f"{CARDS}/promote")
        await ready(first, CARDS)
        await leading.aclose()
        sent = await second.loopz("gift-card.updated", {"id": "c-1", "balance": 7})
        answer = await second.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert answer.status == 200, answer.json
        assert answer.json["balance"] == 7
        assert (await post(second, f"{CARDS}/promote"))["generation"] == 3
