"""What an event takes: `python -m benchmarks.storage`.

Signed updates of gift cards, as benchmarks.ingest sends them, go on record in batches of 64, right after a checkpoint.
Bytes on disk are those of table and indexes; bytes of write-ahead log are all that was written meanwhile, the first
change of every page included. Nothing is folded.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, redirect_stdout
from datetime import UTC, datetime

import msgspec
from multidict import CIMultiDict

from benchmarks.harness.command import fail, parser_of, run, scratch
from benchmarks.harness.postgres import connected, start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.harness.signer import SIGNATURE_HEADER, Signer
from benchmarks.ingest.wrk import gift_card_updates
from benchmarks.storage.queries import QUERIES
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.event_ids import new_event_id
from eventstore.log.events import NewEvent
from eventstore.postgres.database import Database
from providers import load_providers
from runtime.arguments import whole_number
from simulation.deliveries import Delivery as Sent
from verification.delivery import Delivery
from verification.redaction import Redactor
from web.ingest.headers import HeaderFilter
from web.ingest.receiver import new_event

BATCH = 64


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes an event, on average over `events`."""

    events: int
    disk: float
    table: float
    indexes: float
    headers: float
    body: float
    wal: float


class Maker:
    """Makes events of deliveries as a server does."""

    def __init__(self) -> None:
        self._signer = Signer()
        self._provider = load_providers({})["loopz"]
        own = (*self._provider.identity_headers, *self._provider.kept_headers)
        self._headers = HeaderFilter((*own, SIGNATURE_HEADER), (), Redactor(()))

    def event(self, sent: Sent) -> NewEvent:
        """Make the event of one delivery."""
        headers = {
            "Host": "127.0.0.1",
            "Content-Length": str(len(sent.body)),
            **self._signer.headers(sent),
        }
        pairs = tuple((name.encode(), value.encode()) for name, value in headers.items())
        named = CIMultiDict(headers)
        delivery = Delivery("loopz", None, "", named, pairs, datetime.now(UTC), sent.body)
        recognised = self._provider.recognise(named, sent.body)
        return new_event(
            new_event_id(), delivery, recognised, self._headers.block(delivery, recognised)
        )


async def measure(given: argparse.Namespace) -> Report:
    """Put events on record in a new database, and see what they take. Raises BenchmarkError."""
    async with AsyncExitStack() as stack:
        postgres = await start_postgres(stack, stack.enter_context(scratch()) / "data")
        database = Database(postgres.dsn, pool_connections=1)
        # What is logged is no part of the report.
        with redirect_stdout(sys.stderr):
            await database.open()
        stack.push_async_callback(database.close)
        appender = Appender(database.connect, Limits(), lambda _: None)
        await appender.start()
        stack.push_async_callback(appender.stop)
        connection = await stack.enter_async_context(connected(postgres.dsn))
        maker = Maker()
        events = [maker.event(sent) for sent in gift_card_updates(given.seed, given.events)]
        await connection.execute(QUERIES["checkpoint"])
        before = await connection.fetchval(QUERIES["wal_position"])
        for first in range(0, len(events), BATCH):
            await asyncio.gather(*map(appender.append, events[first : first + BATCH]))
            show_progress(f"{first:,} of {len(events):,} events on record")
        wal = await connection.fetchval(QUERIES["wal_position"]) - before
        row = await connection.fetchrow(QUERIES["sizes"])
    if row is None or len(events) != given.events:
        fail("not every event is on record")
    table, indexes, headers, body = (float(size) / given.events for size in row)
    return Report(
        events=given.events,
        disk=table + indexes,
        table=table,
        indexes=indexes,
        headers=headers,
        body=body,
        wal=float(wal) / given.events,
    )


def write(report: Report) -> None:
    """Write a report for people."""
    sys.stdout.write(
        f"bytes an event, of {report.events:,} signed updates of gift cards\n\n"
        f"on disk          {report.disk:8.1f}   table {report.table:.1f}, indexes {report.indexes:.1f}\n"
        f"write-ahead log  {report.wal:8.1f}\n"
        f"in the event     headers {report.headers:.1f}, body {report.body:.1f}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code."""
    parser = parser_of("storage", __doc__)
    parser.add_argument(
        "--events", type=whole_number(1), default=100_000, metavar="N", help="so many (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which deliveries")
    given = parser.parse_args(arguments)
    return run(measure(given), write, given)


if __name__ == "__main__":
    sys.exit(main())
