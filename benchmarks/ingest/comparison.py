"""The servers side by side: started, loaded in turn, and held to what they acknowledged."""

import argparse
import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.harness import servers
from benchmarks.harness.api import HeadCheck
from benchmarks.harness.postgres import start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.harness.report import AGAINST, this_machine
from benchmarks.harness.server_process import ROOT
from benchmarks.harness.servers import Server
from benchmarks.harness.signer import Signer
from benchmarks.harness.usage import busy_seconds, cpu_seconds, own_seconds
from benchmarks.ingest import wrk
from benchmarks.ingest.filling import fill
from benchmarks.ingest.report import APART, FULL, Report, Run, ratios_of, results

SERVERS = ("limit", "loopledger", "insert", "eventsourcing")

# Fresh deliveries for each load, so many for each second and worker; a faster server is sent them again.
FRESH_PER_SECOND = 8_000


class IngestComparison:
    """The servers that run, and what was measured of them."""

    def __init__(self, given: argparse.Namespace, directory: Path) -> None:
        self._given = given
        self._directory = directory
        self._machine = this_machine(directory)
        self._signer = Signer()
        self._names: list[str] = []
        self._servers: dict[str, Server] = {}
        self._heads: dict[str, HeadCheck] = {}
        self._left_out: dict[str, str] = {}
        self._runs: list[Run] = []

    async def run(self) -> Report:
        """Start every server, give each its turns, and report."""
        async with AsyncExitStack() as stack:
            await self._start_all(stack)
            await self._take_turns()
        return self._report()

    async def _start_all(self, stack: AsyncExitStack) -> None:
        given = self._given
        names = [*given.servers]
        names += [FULL] if given.events_on_record else []
        names += [AGAINST] if given.against else []
        names += [APART] if given.apart else []
        if "eventsourcing" in names and (reason := servers.missing_library()):
            names.remove("eventsourcing")
            self._left_out["eventsourcing"] = reason
            show_progress(f"eventsourcing is left out: {reason}")
        self._names = names
        show_progress(f"starting {', '.join(names)}")
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._start(stack, name))

    async def _start(self, stack: AsyncExitStack, name: str) -> None:
        directory = self._directory / name
        directory.mkdir(mode=0o711)
        if name in {"loopledger", FULL, AGAINST, APART}:
            await self._start_loopledger(stack, name, directory)
            return
        postgres = None
        if name != "limit":
            postgres = await start_postgres(stack, directory / "data")
        command = [sys.executable, "-m", "benchmarks.ingest.handlers", name]
        command.append(postgres.dsn if postgres else "")
        self._servers[name] = await servers.start_program(stack, command, directory, postgres)

    async def _start_loopledger(self, stack: AsyncExitStack, name: str, directory: Path) -> None:
        checkout = self._given.against if name == AGAINST else ROOT
        appenders = self._given.workers if name == APART else self._given.appenders
        settings = {"LOOPLEDGER_LIMITS_APPENDERS": str(appenders)} if appenders else {}
        postgres = await start_postgres(stack, directory / "data")

        async def start(stack: AsyncExitStack) -> Server:
            return await servers.start_loopledger(
                stack,
                postgres,
                directory,
                self._signer,
                self._given.workers,
                checkout,
                **settings,
            )

        on_record = 0
        if name == FULL:
            async with AsyncExitStack() as once:
                # It makes its tables and enters its projections.
                await start(once)
            on_record = self._given.events_on_record
            await fill(postgres.dsn, on_record)
        self._servers[name] = await start(stack)
        self._heads[name] = HeadCheck(self._servers[name].url, on_record)
        await self._heads[name].settle()

    async def _take_turns(self) -> None:
        """Give every server its turn, for each number of connections, round after round."""
        given = self._given
        seconds = wrk.whole_seconds(given.seconds)
        turns = given.rounds * len(given.connections) * len(self._names)
        requests = self._directory / "requests"
        for round_ in range(1, given.rounds + 1):
            for connections in given.connections:
                fresh = wrk.gift_card_updates(
                    round_ * 1_000_000 + connections, FRESH_PER_SECOND * seconds * given.workers
                )
                wrk.write_requests(requests, fresh, self._signer)
                # Whoever comes after another may profit from it, or pay for it.
                for name in self._names if round_ % 2 else reversed(self._names):
                    run = await self._turn(name, round_, connections, requests)
                    self._runs.append(run)
                    left = (turns - len(self._runs)) * seconds
                    show_progress(
                        f"{len(self._runs)}/{turns} round {round_}, {connections} connections, {name}: "
                        f"{run.deliveries_per_second:,.0f}/s; {left} s of load left"
                    )

    async def _turn(self, name: str, round_: int, connections: int, requests: Path) -> Run:
        server = self._servers[name]
        everything = server.everything()

        def cpu() -> tuple[float, float, float]:
            ours = cpu_seconds(everything)
            return cpu_seconds(server.http), ours, busy_seconds() - own_seconds() - ours

        before = cpu()
        load = await wrk.load(
            server.url, requests, connections=connections, seconds=self._given.seconds
        )
        http, all_, others = (then - now for now, then in zip(before, cpu(), strict=True))
        settled = None
        if check := self._heads.get(name):
            settled = await check.settle(load.answers, connections)
        return Run(
            server=name,
            connections=connections,
            round=round_,
            answers=load.answers,
            deliveries_per_second=load.answers / load.seconds,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            cpu_http_us=http / load.answers * 1e6,
            cpu_all_us=all_ / load.answers * 1e6,
            other_cpus=max(0.0, others / load.seconds),
            folded_after_seconds=settled,
        )

    def _report(self) -> Report:
        """What was measured."""
        given = self._given
        return Report(
            machine=self._machine,
            load_after=os.getloadavg(),
            seconds=wrk.whole_seconds(given.seconds),
            rounds=given.rounds,
            workers=given.workers,
            verification=True,
            fsync=True,
            events_on_record=given.events_on_record,
            against=str(given.against) if given.against else None,
            left_out=self._left_out,
            heads={name: check.head for name, check in self._heads.items()},
            acknowledged={name: check.acknowledged for name, check in self._heads.items()},
            runs=self._runs,
            results=results(self._runs),
            ratios=ratios_of(self._runs),
        )
