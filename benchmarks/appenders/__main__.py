"""How many of the workers of a machine should append: `python -m benchmarks.appenders`.

So many processes as `--workers` says append events, each for `--senders` that wait for one outcome before the next;
there is no HTTP. In turn every one of them appends by itself, and the first few append for all. Each way has its turn
in each round, on one Postgres with fsync on. Reported is the median of the rounds; a ratio is to "apart", within each
round.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import psutil

from benchmarks.harness.command import scratch
from benchmarks.harness.postgres import Postgres, start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.harness.server_process import ROOT
from benchmarks.harness.usage import cpu_seconds, family
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.events import NewEvent
from eventstore.log.relay_client import RelayingAppender
from eventstore.log.relay_server import RelayServer
from eventstore.postgres.database import Database
from runtime.relays import Relays, add_relay_arguments, inherited_relay
from simulation.deliveries import deliveries

# Seconds until every worker has reached the one that appends for it.
SETTLE_SECONDS = 1.5


class Turn(msgspec.Struct, frozen=True):
    """What one way came to: events a second, CPU microseconds an event of all processes and of Postgres."""

    events_per_second: float
    cpu_us: float


async def main() -> int:
    """Measure, or be a worker."""
    given = _parser().parse_args()
    if given.dsn is not None:
        await _work(given)
        return 0
    ways = [given.workers, *given.appenders]
    turns: dict[int, list[Turn]] = {way: [] for way in ways}
    with scratch() as directory:
        async with AsyncExitStack() as stack:
            postgres = await start_postgres(stack, directory / "data")
            database = Database(postgres.dsn, pool_connections=1)
            await database.open()
            for round_ in range(given.rounds):
                for way in ways if round_ % 2 else reversed(ways):
                    turns[way].append(turn := await _turn(postgres, database, given, way))
                    show_progress(
                        f"round {round_ + 1}, {way} append: {turn.events_per_second:,.0f}/s"
                    )
            await database.close()
    for way, found in turns.items():
        ratio = statistics.median(
            one.events_per_second / apart.events_per_second
            for one, apart in zip(found, turns[given.workers], strict=True)
        )
        sys.stdout.write(
            f"{way:>3} of {given.workers} append: {statistics.median(t.events_per_second for t in found):>8,.0f}/s,"
            f" {ratio:.2f} of apart, {statistics.median(t.cpu_us for t in found):,.0f} us CPU an event\n"
        )
    sys.stdout.write(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} after\n")
    return 0


async def _turn(
    postgres: Postgres, database: Database, given: argparse.Namespace, appenders: int
) -> Turn:
    """Have the workers append for some seconds, once all are there."""
    with Relays(given.workers, appenders) as relays:
        arguments = ["-m", "benchmarks.appenders", "--senders", str(given.senders)]
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, *arguments, "--dsn", postgres.dsn, *relays.arguments(worker)),
                pass_fds=relays.descriptors,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for worker in range(given.workers)
        ]
        for process in processes:
            if process.stdout is not None:
                await process.stdout.readline()
        await asyncio.sleep(SETTLE_SECONDS)
        members = [*family(postgres.process)]
        members += [one for process in processes for one in family(psutil.Process(process.pid))]
        position = "SELECT position FROM log_head"
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(b"\n")
        await asyncio.sleep(SETTLE_SECONDS / 3)
        before = await database.fetchval(position), cpu_seconds(members), time.monotonic()
        await asyncio.sleep(given.seconds)
        after = await database.fetchval(position), cpu_seconds(members), time.monotonic()
        for process in processes:
            process.kill()
            await process.wait()
    events, cpu, seconds = (b - a for a, b in zip(before, after, strict=True))
    return Turn(events / seconds, cpu / events * 1e6)


async def _work(given: argparse.Namespace) -> None:
    """Be a worker: append for so many senders, from a line on standard input on."""
    relay = inherited_relay(given)
    limits = Limits()
    database = Database(given.dsn, pool_connections=1)
    own = Appender(database.connect, limits, lambda _: None)
    appender: Appender | RelayingAppender = own
    if relay.through is not None:
        appender = RelayingAppender(own, relay.through, limits)
    await appender.start()
    if relay.for_others is not None:
        RelayServer(own, relay.for_others, limits).start()
    bodies = itertools.cycle([each.body for each in deliveries(os.getpid(), 500)])
    sys.stdout.write("\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)

    async def send() -> None:
        while True:
            await appender.append(_event(next(bodies)))

    await asyncio.gather(*(send() for _ in range(given.senders)))


def _event(body: bytes) -> NewEvent:
    return NewEvent(
        event_id=uuid4(),
        provider="loopz",
        topic="gift-card.updated",
        merchant_id="m-1",
        program_id="p-1",
        stream=f"loopz/m-1/gift-card/{uuid4()}",
        received_at=datetime.now(UTC),
        headers=b"h" * 60,
        body=body,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.appenders", description=__doc__)
    add = parser.add_argument
    add("--workers", type=int, default=16, metavar="N", help="processes (16)")
    add("--appenders", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="(1 2 4)")
    add("--senders", type=int, default=12, metavar="N", help="of each process (12)")
    add("--rounds", type=int, default=3, help="(3)")
    add("--seconds", type=float, default=3, help="of each turn (3)")
    add("--dsn", help=argparse.SUPPRESS)
    add_relay_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
