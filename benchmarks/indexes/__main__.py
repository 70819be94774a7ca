"""What the indexes of lists cost appends and folds: `python -m benchmarks.indexes`.

The same signed updates of gift cards are appended and folded on several sides, each a database of its own on one
server, in turns of a few thousand events: one side has every index; one has only those by which lists could be filtered
before there were sorts; others lack some. Ratios are to the side that has all: of CPU time of Postgres, and of
write-ahead log, in which the first change of every page since a checkpoint is whole.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, redirect_stdout
from pathlib import Path

import msgspec
import psutil

from benchmarks.harness.command import parser_of, run, scratch
from benchmarks.harness.postgres import connected, start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.harness.report import write_table
from benchmarks.ingest.wrk import gift_card_updates
from benchmarks.storage.__main__ import Maker
from eventstore.fold.generation import SCHEMA, GenerationTables
from eventstore.fold.projector import Projector
from eventstore.fold.registry import Registry
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.events import NewEvent
from eventstore.log.head import Head
from eventstore.log.reader import Reader
from eventstore.postgres.database import Database
from eventstore.postgres.queries import load_queries
from projections.gift_cards import PROJECTION
from providers import load_providers
from runtime.arguments import whole_number

QUERIES = load_queries(Path(__file__).with_name("indexes.sql"))

# Events that are appended or folded in one transaction: about as many as under load.
BATCH = 64
TURN = 4_096

BEFORE = ("id", "merchant_id", "status")
LOG_INDEX = "events_words"


class Side(msgspec.Struct, frozen=True):
    """What an event took: CPU time of Postgres in us, bytes of write-ahead log; `indexes` of lists has the side."""

    name: str
    indexes: int
    append_cpu: float
    append_wal: float
    fold_cpu: float
    fold_wal: float
    fold_seconds: float


class Report(msgspec.Struct, frozen=True):
    """All sides, and how many events each had."""

    events: int
    sides: list[Side]


class _Side:
    """A database that appends and folds; `left_out` are indexes of the states that it lacks."""

    def __init__(
        self, name: str, dsn: str, left_out: Sequence[str], process: psutil.Process
    ) -> None:
        self.name = name
        self.left_out = left_out
        self._process = process
        self._database = Database(dsn, pool_connections=2)
        limits = Limits(fold_events=BATCH, pool_connections=2)
        head = Head(self._database, limits)
        self._appender = Appender(self._database.connect, limits, head.on_append)
        self._projector = Projector(
            PROJECTION,
            sources=load_providers({}),
            database=self._database,
            reader=Reader(self._database, limits),
            head=head,
            registry=Registry(self._database),
            limits=limits,
        )
        self.taken = [0.0] * 5

    async def open(self, stack: AsyncExitStack, *, with_log_index: bool) -> None:
        """Make the tables, without what is left out."""
        await self._database.open()
        stack.push_async_callback(self._database.close)
        await self._appender.start()
        stack.push_async_callback(self._appender.stop)
        await self._projector.set_up()
        for index in self.left_out:
            await self._database.execute(QUERIES["drop_index"].format(name=f"{SCHEMA}.{index}"))
        if not with_log_index:
            await self._database.execute(QUERIES["drop_index"].format(name=LOG_INDEX))

    async def checkpoint(self) -> None:
        """Have every page of the server written, so that all sides begin alike."""
        await self._database.execute(QUERIES["checkpoint"])

    async def turn(self, events: Sequence[NewEvent]) -> None:
        """Append and fold these, and add up what that took."""
        cpu, wal = self._cpu(), await self._database.fetchval(QUERIES["written"])
        for first in range(0, len(events), BATCH):
            await asyncio.gather(*map(self._appender.append, events[first : first + BATCH]))
        between, written = self._cpu(), await self._database.fetchval(QUERIES["written"])
        started = time.monotonic()
        while await self._projector.fold_next():
            pass
        taken = (
            *(between - cpu, float(written - wal), self._cpu() - between),
            float(await self._database.fetchval(QUERIES["written"]) - written),
            time.monotonic() - started,
        )
        self.taken = [was + now for was, now in zip(self.taken, taken, strict=True)]

    def _cpu(self) -> float:
        times = [child.cpu_times() for child in self._process.children()]
        return sum(each.user + each.system for each in times)


async def measure(given: argparse.Namespace) -> Report:
    """Append and fold on every side in turns."""
    every = list(GenerationTables(PROJECTION, 1).list_indexes)
    states = f"{PROJECTION.name}_1"
    left_out = {
        "all": [],
        "before": [name for name in every if name not in {f"{states}_{each}" for each in BEFORE}],
        **{f"without {name.removeprefix(states)[1:]}": [name] for name in every if given.each},
        "no sorts": [name for name in every if "_by_" in name],
    }
    async with AsyncExitStack() as stack:
        postgres = await start_postgres(stack, stack.enter_context(scratch()) / "data")
        sides = []
        for number, (name, indexes) in enumerate(left_out.items()):
            async with connected(postgres.dsn) as connection:
                database = f"side_{number}"
                await connection.execute(QUERIES["create_database"].format(name=database))
                current = await connection.fetchval("SELECT current_database()")
            dsn = postgres.dsn.replace(f"/{current}?", f"/{database}?")
            side = _Side(name, dsn, indexes, postgres.process)
            with redirect_stdout(sys.stderr):
                await side.open(stack, with_log_index=name != "before")
            sides.append(side)
        await sides[0].checkpoint()
        maker = Maker()
        sent = iter(gift_card_updates(given.seed, given.events))
        for first in range(0, given.events, TURN):
            events = [maker.event(next(sent)) for _ in range(min(TURN, given.events - first))]
            for side in sides:
                await side.turn(events)
            show_progress(f"{first:,} of {given.events:,} events on {len(sides)} sides")
    count = given.events
    return Report(
        count,
        [
            Side(
                side.name,
                len(every) - len(side.left_out),
                side.taken[0] / count * 1e6,
                side.taken[1] / count,
                side.taken[2] / count * 1e6,
                side.taken[3] / count,
                side.taken[4] / count,
            )
            for side in sides
        ],
    )


def write(report: Report) -> None:
    """Write a report for people."""
    whole = report.sides[0]
    rows = [
        (
            side.name,
            str(side.indexes),
            *(
                f"{value:.1f} ({value / of:.2f})"
                for value, of in (
                    (side.append_cpu, whole.append_cpu),
                    (side.append_wal, whole.append_wal),
                    (side.fold_cpu, whole.fold_cpu),
                    (side.fold_wal, whole.fold_wal),
                    (side.fold_seconds * 1e6, whole.fold_seconds * 1e6),
                )
            ),
        )
        for side in report.sides
    ]
    write_table(
        f"For an event, of {report.events:,}; and its ratio to the side with all indexes",
        ("side", "indexes", "append us", "append B", "fold us", "fold B", "fold, whole us"),
        rows,
        left=1,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code."""
    parser = parser_of("indexes", __doc__)
    parser.add_argument(
        "--events", type=whole_number(1), default=40_960, metavar="N", help="so many (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which deliveries")
    parser.add_argument("--each", action="store_true", help="also leave each index out by itself")
    given = parser.parse_args(arguments)
    return run(measure(given), write, given)


if __name__ == "__main__":
    sys.exit(main())
