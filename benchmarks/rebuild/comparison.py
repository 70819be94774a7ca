"""One log, and every way to make a projection of it, round after round."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import psutil

from benchmarks.harness import servers
from benchmarks.harness.api import Api
from benchmarks.harness.command import fail
from benchmarks.harness.postgres import connected, postgres_in
from benchmarks.harness.progress import progress, show_progress
from benchmarks.harness.report import AGAINST, this_machine
from benchmarks.harness.server_process import ROOT, LoopledgerProcess
from benchmarks.harness.usage import Usage, measure
from benchmarks.rebuild.alternatives import (
    ByHand,
    Library,
    TableHash,
    project,
    read_all,
)
from benchmarks.rebuild.api import discard, rebuild
from benchmarks.rebuild.copy import copy_without_timelines
from benchmarks.rebuild.events import Plan
from benchmarks.rebuild.loading import load
from benchmarks.rebuild.report import (
    ALL,
    LIBRARY,
    LIMIT,
    LOOPLEDGER,
    SQL,
    WITHOUT_TIMELINES,
    Live,
    Report,
    Run,
    Sameness,
    ratios_of,
    results,
)
from eventstore.postgres.cluster import embedded_dsn
from eventstore.postgres.roles import ADMIN

if TYPE_CHECKING:
    from asyncpg import Connection, Record

PROJECTIONS = ("gift_cards", "transactions")
# What the library projects.
CARDS = "gift_cards"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A Loopledger that runs and has caught up, its Postgres, and the ways to speak to both.

    `tables` are those of the live generations, by projection.
    """

    api: Api
    program: psutil.Process
    postgres: psutil.Process
    dsn: str
    connection: "Connection[Record]"
    tables: dict[str, str]


class RebuildComparison:
    """A log of one size in a directory of its own."""

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        *,
        rounds: int,
        library_events: int,
        against: Path | None,
    ) -> None:
        self._plan = plan
        self._rounds = rounds
        self._library_events = min(library_events, plan.events)
        self._directory = directory
        self._against = against
        self._data_dir = directory / "data"
        self._machine = this_machine(directory)
        self._left_out: dict[str, str] = {}
        self._runs: list[Run] = []
        self._sameness: list[Sameness] = []
        self._live: dict[Path, Live] = {}
        self._log_bytes = 0

    async def run(self) -> Report:
        """Load, fold, measure; gives back what was found. Raises BenchmarkError if a rebuild is wrong."""
        if not self._library_events:
            self._left_out[LIBRARY] = "it was given no events"
        elif reason := servers.missing_library():
            self._left_out[LIBRARY] = reason
        load_seconds = await self._load(ROOT, self._data_dir)
        copy = self._directory / "without-timelines"
        copy_without_timelines(copy, PROJECTIONS)
        loopledgers = [
            (LOOPLEDGER, ROOT, self._data_dir),
            (WITHOUT_TIMELINES, copy, self._data_dir),
        ]
        if self._against is not None:
            # Its schema may be another, and so it has the same log in a database of its own.
            data_dir = self._directory / AGAINST
            await self._load(self._against, data_dir)
            loopledgers.append((AGAINST, self._against, data_dir))
        for round_ in range(1, self._rounds + 1):
            # Whoever comes after another may profit from it, or pay for it.
            for way, checkout, data_dir in loopledgers if round_ % 2 else reversed(loopledgers):
                async with self._serving(checkout, data_dir) as server:
                    if way == LOOPLEDGER:
                        await self._use_alternatives(server, round_)
                    for projection in PROJECTIONS:
                        await self._rebuild(server, way, projection, round_)
        return self._report(load_seconds)

    def _process(self, checkout: Path, data_dir: Path) -> LoopledgerProcess:
        return LoopledgerProcess(
            data_dir,
            self._directory / servers.LOG,
            environ={"LOOPLEDGER_LOG_LEVEL": "warning"},
            checkout=checkout,
        )

    async def _load(self, checkout: Path, data_dir: Path) -> float:
        """Let a Loopledger make its tables, and put the log in them; gives back how many seconds that took."""
        began = time.monotonic()
        async with servers.running(self._process(checkout, data_dir)):
            pass
        await load(data_dir, self._plan)
        return time.monotonic() - began

    @asynccontextmanager
    async def _serving(self, checkout: Path, data_dir: Path) -> AsyncIterator[Server]:
        """A server that has caught up; how long that took when it had all to fold is kept."""
        began = time.perf_counter()
        process = self._process(checkout, data_dir)
        dsn = embedded_dsn(data_dir, ADMIN)
        async with (
            servers.running(process) as program,
            aiohttp.ClientSession() as session,
            connected(dsn) as connection,
        ):
            api = Api(process.url, session, process.local_key)
            with progress("folding live", self._plan.events) as show:
                projections = await api.caught_up(show)
            if quarantined := [each for each in projections if each.quarantined]:
                fail(f"the live fold did not do well: {quarantined}")
            if data_dir not in self._live:
                seconds = time.perf_counter() - began
                rate = self._plan.events / seconds
                self._live[data_dir] = Live(seconds=seconds, events_per_second=rate)
                show_progress(f"live folding caught up at {rate:,.0f} events/s")
            yield Server(
                api=api,
                program=program,
                postgres=postgres_in(data_dir),
                dsn=dsn,
                connection=connection,
                tables={each.name: f"{each.name}_{each.generation}" for each in projections},
            )

    async def _use_alternatives(self, server: Server, round_: int) -> None:
        await self._read_all(server, round_)
        for projection in PROJECTIONS:
            await self._query(server, projection, round_)
        if LIBRARY not in self._left_out:
            await self._use_library(server, round_)

    async def _read_all(self, server: Server, round_: int) -> None:
        async with self._turn(server, LIMIT, ALL, round_):
            reading = read_all(server.connection, self._plan.events)
            self._log_bytes, usage = await measure(reading, server.postgres, None)
        self._note(LIMIT, ALL, round_, usage)

    async def _query(self, server: Server, projection: str, round_: int) -> None:
        by_hand = ByHand(server.connection, projection, server.tables[projection])
        await by_hand.set_up()
        async with self._turn(server, SQL, projection, round_):
            _, usage = await measure(by_hand.make(self._plan.events), server.postgres, None)
        self._note(SQL, projection, round_, usage)
        if round_ == 1:
            self._compare(SQL, projection, *await by_hand.hashes())
        await by_hand.drop()

    async def _rebuild(self, server: Server, way: str, projection: str, round_: int) -> None:
        async with self._turn(server, way, projection, round_) as show:
            work = rebuild(server.api, projection, show)
            rebuilt, usage = await measure(work, server.postgres, server.program)
        usage = msgspec.structs.replace(usage, seconds=rebuilt.build)
        self._note(way, projection, round_, usage, diff_seconds=rebuilt.diff)
        await discard(server.api, projection)

    async def _use_library(self, server: Server, round_: int) -> None:
        library = Library(server.dsn, self._library_events)
        show_progress(f"giving the eventsourcing library {self._library_events:,} events")
        async with library.filled() as process, self._turn(server, LIBRARY, CARDS, round_):
            program = psutil.Process(process.pid)
            seconds, usage = await measure(project(process), server.postgres, program)
        usage = msgspec.structs.replace(usage, seconds=seconds)
        self._note(LIBRARY, CARDS, round_, usage)
        if round_ == 1:
            self._compare(LIBRARY, CARDS, *await library.hashes(server.connection))

    @asynccontextmanager
    async def _turn(
        self, server: Server, way: str, projection: str, round_: int
    ) -> AsyncIterator[Callable[[float], None]]:
        """Nobody pays for what the one before left to be written."""
        await server.connection.execute("CHECKPOINT", timeout=None)
        percent = 100 if way in {LOOPLEDGER, WITHOUT_TIMELINES, AGAINST} else None
        title = f"round {round_} of {self._rounds}, {way}, {projection}"
        with progress(title, percent) as show:
            yield show

    def _note(
        self,
        way: str,
        projection: str,
        round_: int,
        usage: Usage,
        diff_seconds: float | None = None,
    ) -> None:
        events = self._library_events if way == LIBRARY else self._plan.events
        run = Run(
            way=way,
            projection=projection,
            round=round_,
            events=events,
            events_per_second=events / usage.seconds,
            diff_seconds=diff_seconds,
            **msgspec.structs.asdict(usage),
        )
        self._runs.append(run)
        show_progress(
            f"round {round_} of {self._rounds}, {way}, {projection}: "
            f"{run.events_per_second:,.0f} events/s"
        )

    def _compare(self, way: str, projection: str, made: TableHash, wanted: TableHash) -> None:
        self._sameness.append(
            Sameness(
                way=way,
                projection=projection,
                rows=made.rows,
                wanted_rows=wanted.rows,
                same=made == wanted,
            )
        )

    def _report(self, load_seconds: float) -> Report:
        return Report(
            machine=self._machine,
            load_after=os.getloadavg(),
            events=self._plan.events,
            cards=self._plan.cards,
            transactions=self._plan.transactions,
            library_events=self._library_events,
            rounds=self._rounds,
            fsync=True,
            load_seconds=load_seconds,
            log_bytes=self._log_bytes,
            live=self._live[self._data_dir],
            live_against=self._live.get(self._directory / AGAINST),
            against=str(self._against) if self._against else None,
            left_out=self._left_out,
            sameness=self._sameness,
            runs=self._runs,
            results=results(self._runs),
            ratios=ratios_of(self._runs),
        )
