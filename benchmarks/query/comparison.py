"""The servers side by side: asked in turn, while deliveries come in."""

import argparse
import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from benchmarks.harness import servers
from benchmarks.harness.api import Api
from benchmarks.harness.postgres import start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.harness.report import AGAINST, this_machine
from benchmarks.harness.server_process import ROOT
from benchmarks.harness.signer import Signer
from benchmarks.harness.usage import busy_seconds, cpu_seconds, own_seconds
from benchmarks.ingest import wrk
from benchmarks.query.data import Data, random_cards
from benchmarks.query.questions import Question, questions
from benchmarks.query.report import BARE, LOOPLEDGER, Report, Run, ratios_of, results
from benchmarks.query.streams import Streams, measure_streams
from benchmarks.query.whole_list import WholeList, read_cards
from benchmarks.rebuild.events import Plan

# Deliveries come over so many connections, each of which rests between two of them.
INGEST_CONNECTIONS = 50

# How long it is looked what they take by themselves; and how soon streams tell of them.
INGEST_SECONDS = 3
STREAM_SECONDS = 5


class QueryComparison:
    """The servers that run, and what was measured of them."""

    def __init__(self, given: argparse.Namespace, directory: Path) -> None:
        self._given = given
        self._directory = directory
        self._machine = this_machine(directory)
        # Most events are about cards.
        others = max(1, (given.events - given.cards) // 5)
        self._plan = Plan(events=given.events, cards=given.cards, transactions=others)
        self._signer = Signer()
        self._servers: dict[str, servers.Server] = {}
        self._questions: list[Question] = []
        self._bytes: dict[str, int] = {}
        self._runs: list[Run] = []
        self._streams: Streams | None = None
        self._csv: WholeList | None = None
        # Seconds that each delivery takes of the processes that answer.
        self._ingest_cpu = 0.0

    async def run(self) -> Report:
        """Make the data, start every server, give each its turns, and report."""
        place = self._given.data or self._directory
        place.mkdir(mode=0o711, parents=True, exist_ok=True)
        data = Data(place, self._plan, self._given.long)
        await data.load()
        async with AsyncExitStack() as stack:
            await self._start(stack, data)
            await self._measure_ingest()
            await self._take_turns()
            await self._follow()
            show_progress("all cards as CSV")
            self._csv = await read_cards(self._servers[LOOPLEDGER])
        return self._report()

    async def _start(self, stack: AsyncExitStack, data: Data) -> None:
        show_progress("starting loopledger")
        postgres = await start_postgres(stack, data.directory)
        places = {LOOPLEDGER: ROOT} | (
            {AGAINST: self._given.against} if self._given.against else {}
        )
        for name, checkout in places.items():
            directory = self._directory / name
            directory.mkdir()
            self._servers[name] = await servers.start_loopledger(
                stack, postgres, directory, self._signer, self._given.workers, checkout
            )
        middle = await data.complete(self._servers[LOOPLEDGER], postgres, self._signer)
        known = questions(await random_cards(postgres), middle)
        self._questions = [
            each for each in known if self._given.only is None or each.name in self._given.only
        ]
        answers = self._directory / "answers"
        answers.mkdir()
        async with aiohttp.ClientSession() as session:
            api = Api(self._servers[LOOPLEDGER].url, session)
            for each in self._questions:
                body = await api.send("GET", each.targets[0])
                (answers / each.name.replace(" ", "-")).write_bytes(body)
                self._bytes[each.name] = len(body)
        command = [sys.executable, "-m", "benchmarks.query.bare", str(answers)]
        self._servers[BARE] = await servers.start_program(stack, command, self._directory, None)

    async def _measure_ingest(self) -> None:
        """What deliveries take of the processes that answer, while nobody asks anything."""
        if not self._given.ingest:
            return
        server = self._servers[LOOPLEDGER]
        http = cpu_seconds(server.http)
        per_second = await self._ingest(0, INGEST_SECONDS)
        taken = cpu_seconds(server.http) - http
        self._ingest_cpu = taken / (per_second * INGEST_SECONDS)

    async def _follow(self) -> None:
        """Follow the log by live streams, while deliveries come in."""
        if not (count := self._given.streams):
            return
        show_progress(f"following the log by {count} live streams")
        seconds = max(STREAM_SECONDS, wrk.whole_seconds(self._given.seconds))
        url = self._servers[LOOPLEDGER].url
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ingest(len(self._runs), seconds))
            self._streams = await measure_streams(url, self._signer, count, seconds)

    async def _take_turns(self) -> None:
        given = self._given
        turns = given.rounds * len(given.connections) * len(self._questions) * len(self._servers)
        requests = self._directory / "requests"
        for round_ in range(1, given.rounds + 1):
            for question in self._questions:
                for connections in given.connections:
                    # Whoever comes after another may profit from it, or pay for it.
                    names = list(self._servers)
                    for name in names if round_ % 2 else reversed(names):
                        bare = [f"/{question.name.replace(' ', '-')}"]
                        wrk.write_gets(requests, bare if name == BARE else question.targets)
                        run = await self._turn(question.name, name, round_, connections, requests)
                        self._runs.append(run)
                        show_progress(
                            f"{len(self._runs)}/{turns} round {round_}, {question.name}, {connections} connections, "
                            f"{name}: {run.per_second:,.0f}/s, {run.cpu_http_us:,.0f} us"
                        )

    async def _turn(
        self, question: str, name: str, round_: int, connections: int, requests: Path
    ) -> Run:
        server = self._servers[name]

        def cpu() -> tuple[float, float, float]:
            # Connections to Postgres are opened as they are needed.
            ours = cpu_seconds(server.everything())
            return cpu_seconds(server.http), ours, busy_seconds() - own_seconds() - ours

        seconds = wrk.whole_seconds(self._given.seconds)
        async with asyncio.TaskGroup() as group:
            ingest = group.create_task(self._ingest(round_ * 1_000 + len(self._runs), seconds + 1))
            # Those that deliver have connected.
            await asyncio.sleep(0.5)
            before = cpu()
            load = await wrk.load(server.url, requests, connections=connections, seconds=seconds)
            http, all_, others = (then - now for now, then in zip(before, cpu(), strict=True))
        if name == LOOPLEDGER:
            http -= ingest.result() * load.seconds * self._ingest_cpu
        others = max(0.0, others) / load.seconds
        return Run(
            question=question,
            connections=connections,
            server=name,
            round=round_,
            per_second=load.answers / load.seconds,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            cpu_http_us=http / load.answers * 1e6,
            cpu_all_us=all_ / load.answers * 1e6,
            other_cpus=others,
            ingest_per_second=ingest.result(),
        )

    async def _ingest(self, seed: int, seconds: int) -> float:
        """Deliver at about the wanted rate; gives back how many were acknowledged a second."""
        if not self._given.ingest:
            return 0.0
        requests = self._directory / "deliveries"
        fresh = wrk.gift_card_updates(seed, self._given.ingest * (seconds + 1))
        await asyncio.to_thread(wrk.write_requests, requests, fresh, self._signer)
        load = await wrk.load(
            self._servers[LOOPLEDGER].url,
            requests,
            connections=INGEST_CONNECTIONS,
            seconds=seconds,
            rest_ms=round(INGEST_CONNECTIONS / self._given.ingest * 1_000),
        )
        return load.answers / load.seconds

    def _report(self) -> Report:
        given = self._given
        return Report(
            machine=self._machine,
            load_after=os.getloadavg(),
            events=given.events,
            cards=given.cards,
            seconds=wrk.whole_seconds(given.seconds),
            rounds=given.rounds,
            workers=given.workers,
            ingest=given.ingest,
            against=str(given.against) if given.against else None,
            bytes=self._bytes,
            streams=self._streams,
            csv=self._csv,
            runs=self._runs,
            ingest_cpu_us=self._ingest_cpu * 1e6,
            results=results(self._runs),
            ratios=ratios_of(self._runs),
        )
