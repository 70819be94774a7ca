"""Rebuilds over HTTP of a server in this process, and what two generations are compared by."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from eventstore.fold.generation import GenerationTables
from eventstore.limits import Limits
from eventstore.log.events import Event
from eventstore.postgres.database import Database
from eventstore.postgres.failures import describe
from eventstore.rebuild import build, conductor
from eventstore.rebuild.builder import Builder, TooManyStreamsError
from eventstore.rebuild.messages import BuildCounts, BuilderSettings, Job, Range
from eventstore.rebuild.pool import BuilderPool, BuildFailedError
from providers import loopz
from providers.facts import Fact
from providers.fitbank import Settings as FitBankSettings
from providers.provider import UndecodableError
from runtime.building import make_builder
from tests.conftest import StartLoopledger
from tests.support import Client, new_event, values
from tests.support.live_fold import PROJECTIONS
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

SWAPPED = {"fitbank": FitBankSettings(cash_methods_swapped=True)}


async def until(client: Client, path: str, done: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - JSON
    """Ask until the answer is as wanted."""
    async with asyncio.timeout(30):
        while True:
            answer = await client.get(path)
            assert answer.status in {200, 404}, answer.json
            if done(answer.json):
                return answer.json
            await asyncio.sleep(0.02)


async def post(client: Client, path: str) -> Any:  # noqa: ANN401 - JSON
    answer = await client.request("POST", path)
    assert answer.status == 200, answer.json
    return answer.json


async def send_cards(client: Client, cards: int, rounds: int) -> None:
    for balance in range(rounds):
        await asyncio.gather(
            *(
                client.loopz(
                    "gift-card.updated",
                    {
                        "id": f"c-{n}",
                        "balance": {"amount": balance * n * 1000, "currencyCode": "EUR"},
                    },
                )
                for n in range(cards)
            )
        )


async def send_cash(client: Client, count: int) -> None:
    for status in ("Created", "Settled"):
        await asyncio.gather(
            *(
                client.fitbank(
                    {
                        "Method": "UpdateDepositClosedLoopStatusMongo",
                        "BusinessUnitId": 66,
                        "TransactionIdentifier": f"t-{n}",
                        "Status": status,
                        "TotalValue": "10.00",
                    }
                )
                for n in range(count)
            )
        )


LIMITS = Limits(poll_seconds=0.05, pool_connections=5, rebuild_processes=1)

CARDS = "/v1/projections/gift_cards"

CASH = "/v1/projections/transactions"


class QuickBuilderPool(BuilderPool):
    """Builders in this very process: quick to start, and with the code of this test."""

    async def build_ranges(self, job: Job, on_progress: Callable[[int], None]) -> BuildCounts:
        """Build range by range, as builder processes do."""
        builder, database = self._builder(job)
        try:
            built, _ = await build_all(builder, database, on_progress)
        except Exception as error:
            raise BuildFailedError(problem=describe(error)) from error
        return built

    async def build_second_pass(self, job: Job) -> BuildCounts:
        """Fold again what has to be."""
        try:
            return await build_second_pass(*self._builder(job))
        except Exception as error:
            raise BuildFailedError(problem=describe(error)) from error

    def _builder(self, job: Job) -> tuple[Builder[Any], Database]:
        builder_settings = msgspec.json.decode(self._settings, type=BuilderSettings)
        return (
            make_builder(builder_settings, job),
            Database(builder_settings.dsn, pool_connections=1),
        )


async def build_all(
    builder: Builder[Any], database: Database, progress: Callable[[int], None] = lambda _: None
) -> tuple[BuildCounts, int]:
    """Build a whole generation; gives back how many passes it took, too."""
    left, passes, counts = Range().split(2), 0, BuildCounts(0, 0)
    while left:
        part = left.pop()
        passes += 1
        try:
            counts += await builder.build_range(database.connect, part, progress)
        except TooManyStreamsError as error:
            left += part.split(error.parts)
    return counts, passes


async def build_second_pass(builder: Builder[Any], database: Database) -> BuildCounts:
    """Fold those streams again that events were refiled to."""
    counts = BuildCounts(0, 0)
    for part in Range(second_pass=True).split(2):
        counts += await builder.build_range(database.connect, part, lambda _: None)
    return counts


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
    selects = {
        table.view: (f"TABLE {table.qualified_name}", f"TABLE {new.qualified_name}")
        for table, new in zip(
            GenerationTables(projection, one).tables,
            GenerationTables(projection, other).tables,
            strict=True,
        )
    }
    selects["quarantine"] = tuple(  # type: ignore[assignment]
        f"SELECT position, stream FROM quarantine WHERE projection = '{name}' AND generation = {n}"  # noqa: S608
        for n in (one, other)
    )
    selects["refiled"] = tuple(  # type: ignore[assignment]
        f"SELECT position, stream, refiled_to FROM refiled WHERE projection = '{name}' AND generation = {n}"  # noqa: S608
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


@asynccontextmanager
async def meanwhile(*awaitables: Any) -> AsyncIterator[None]:  # noqa: ANN401 - of anything
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def broken(topics: Sequence[str], decode: Callable[..., Fact] = loopz.decode) -> Any:  # noqa: ANN401
    """Give a decoder with a fault: it cannot read these topics."""

    def decode_some(event: Event, *rules: Any) -> Fact:  # noqa: ANN401 - as they came
        if event.topic in topics:
            raise UndecodableError(field="everything", problem="is unreadable")
        return decode(event, *rules)

    return decode_some


FEW = msgspec.structs.replace(LIMITS, failures_in_a_row=5, fold_events=3)
