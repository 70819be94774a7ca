"""How many deliveries are taken a second, beside what else one could do: `python -m benchmarks.ingest`.

wrk sends signed `gift-card.updated` deliveries to

  limit          a bare aiohttp handler that reads the body and answers 200
  loopledger     `loopledger serve`: verifies, records, projects
  insert         the bare handler with one INSERT a request, through a pool of 20 connections
  eventsourcing  the bare handler with the recorder of the eventsourcing library, in 20 threads

one after the other, round after round, each with a Postgres of its own and fsync on. Reported is the median of the
rounds; a ratio is the median of the ratios within each round, since what else the machine does changes between rounds.
`CPU http` is the processor time of the processes that take deliveries, `CPU all` of all processes of the server, with
Postgres. Each load begins with fresh gift cards, the same for all. Loopledger projects while it is measured; before the
next server's turn it may catch up (`folded after`), so that it takes no time from the others.

After each of its turns Loopledger's head must have moved by the number of 200s that wrk saw (and by at most one more
for each connection, in flight when the load ended), and every projection must account for every event.

`--events-on-record N` adds a second Loopledger, `full`, whose log holds N events before it starts. They are written by
SQL, and its projections are told that they have seen them: their checkpoints are set to N, with all of them ignored.
Otherwise it would be folding them while it is measured.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import processes, servers, wrk
from benchmarks.filling import fill
from benchmarks.ingest_report import Report, Run, ratios, results, write
from benchmarks.processes import scratch
from benchmarks.report import parser_of, show_progress, tell, this_machine
from benchmarks.standing import Ledger
from benchmarks.traffic import Signer, gift_card_updates, write_requests

if TYPE_CHECKING:
    from benchmarks.servers import Server

SERVERS = ("limit", "loopledger", "insert", "eventsourcing")
FULL = "full"

# Fresh deliveries for each load, so many for each second and worker; a faster server is sent them again.
FRESH_PER_SECOND = 8_000

EXIT_NO_WRK = 2


class Contest:
    """The servers that run, and what was measured of them."""

    def __init__(self, given: argparse.Namespace, directory: Path) -> None:
        self._given = given
        self._directory = directory
        self._machine = this_machine(directory)
        self._signer = Signer()
        self._names: list[str] = []
        self._servers: dict[str, Server] = {}
        self._ledgers: dict[str, Ledger] = {}
        self.left_out: dict[str, str] = {}
        self.runs: list[Run] = []

    async def start(self, stack: AsyncExitStack) -> None:
        """Start every server."""
        names = [*self._given.servers, *([FULL] if self._given.events_on_record else [])]
        if "eventsourcing" in names and (reason := servers.missing_library()):
            names.remove("eventsourcing")
            self.left_out["eventsourcing"] = reason
            show_progress(f"eventsourcing is left out: {reason}")
        self._names = names
        show_progress(f"starting {', '.join(names)}")
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._start(stack, name))

    async def _start(self, stack: AsyncExitStack, name: str) -> None:
        directory = self._directory / name
        directory.mkdir(mode=0o711)
        if name in {"loopledger", FULL}:
            await self._start_loopledger(stack, name, directory)
        else:
            self._servers[name] = await servers.start_handler(stack, name, directory)

    async def _start_loopledger(self, stack: AsyncExitStack, name: str, directory: Path) -> None:
        postgres = await servers.start_postgres(stack, directory / "data")
        options = (postgres, directory, self._signer, self._given.workers)
        on_record = 0
        if name == FULL:
            async with AsyncExitStack() as once:
                # It makes its tables and enters its projections.
                await servers.start_loopledger(once, *options)
            on_record = self._given.events_on_record
            await fill(postgres.dsn, on_record, show_progress)
        self._servers[name] = await servers.start_loopledger(stack, *options)
        self._ledgers[name] = Ledger(self._servers[name].url, on_record)
        await self._ledgers[name].settle()

    async def run(self) -> None:
        """Give every server its turn, for each number of connections, round after round."""
        given = self._given
        seconds = wrk.whole_seconds(given.seconds)
        turns = given.rounds * len(given.connections) * len(self._names)
        requests = self._directory / "requests"
        for round_ in range(1, given.rounds + 1):
            for connections in given.connections:
                fresh = gift_card_updates(
                    round_ * 1_000_000 + connections, FRESH_PER_SECOND * seconds * given.workers
                )
                write_requests(requests, fresh, self._signer)
                for name in self._names:
                    run = await self._turn(name, round_, connections, requests)
                    self.runs.append(run)
                    left = (turns - len(self.runs)) * seconds
                    show_progress(
                        f"{len(self.runs)}/{turns} round {round_}, {connections} connections, {name}: "
                        f"{run.deliveries_per_second:,.0f}/s; {left} s of load left"
                    )

    async def _turn(self, name: str, round_: int, connections: int, requests: Path) -> Run:
        server = self._servers[name]
        everything = server.everything()

        def cpu() -> tuple[float, float, float]:
            ours = processes.cpu_seconds(everything)
            others = processes.busy_seconds() - processes.own_seconds() - ours
            return processes.cpu_seconds(server.http), ours, others

        before = cpu()
        load = await wrk.load(
            server.url, requests, connections=connections, seconds=self._given.seconds
        )
        http, all_, others = (then - now for now, then in zip(before, cpu(), strict=True))
        settled = None
        if ledger := self._ledgers.get(name):
            settled = await ledger.settle(load.answers, connections)
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

    def report(self) -> Report:
        """What was measured."""
        given = self._given
        return Report(
            machine=self._machine,
            load_after=os.getloadavg(),
            seconds=wrk.whole_seconds(given.seconds),
            rounds=given.rounds,
            workers=given.workers,
            verification=servers.verifies("loopz"),
            fsync=True,
            events_on_record=given.events_on_record,
            left_out=self.left_out,
            heads={name: ledger.head for name, ledger in self._ledgers.items()},
            acknowledged={name: ledger.acknowledged for name, ledger in self._ledgers.items()},
            runs=self.runs,
            results=list(results(self.runs)),
            ratios=list(ratios(self.runs)),
        )


async def benchmark(given: argparse.Namespace) -> int:
    """Measure and report."""
    with scratch() as directory:
        async with AsyncExitStack() as stack:
            contest = Contest(given, directory)
            await contest.start(stack)
            await contest.run()
            report = contest.report()
    tell(report, write, as_json=given.json)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code: 1 if a check failed, 2 if wrk is missing."""
    parser = parser_of("ingest", __doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=5, help="of each load, rounded up to whole ones (5)")
    add("--connections", type=int, nargs="+", default=[1, 16, 64, 256], metavar="N")
    add("--rounds", type=int, default=3, help="(3)")
    add("--workers", type=int, default=1, help="processes of Loopledger that take deliveries (1)")
    add("--servers", nargs="+", default=list(SERVERS), choices=SERVERS, help="(all)")
    add("--events-on-record", type=int, default=0, metavar="N", help="also measure a log with N")
    add("--json", action="store_true", help="print only the report, as one JSON object")
    given = parser.parse_args(arguments)
    if min(given.seconds, given.rounds, given.workers, *given.connections) <= 0:
        parser.error("seconds, rounds, workers and connections must be more than 0")
    if not wrk.installed():
        sys.stderr.write("benchmark: wrk is not installed. On Debian: apt-get install wrk\n")
        return EXIT_NO_WRK
    return processes.run(benchmark(given))


if __name__ == "__main__":
    sys.exit(main())
