"""How long the migration of a log to its lasting layout takes: `python -m benchmarks.storage.migration`.

A log in the layout before migration 5 is filled by SQL, and migrated; each event must say what it said.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, redirect_stdout
from typing import TYPE_CHECKING

import msgspec

from benchmarks.harness.command import fail, parser_of, run, scratch
from benchmarks.harness.postgres import connected, start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.storage.queries import QUERIES
from eventstore.postgres.schema import NO_LIMIT, all_migrations, migrate, set_up_schema
from runtime.arguments import whole_number

if TYPE_CHECKING:
    from asyncpg import Connection, Record

LAYOUT = 5


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A log of `events` before and after, in bytes of disk; and the bytes of write-ahead log of the migration."""

    events: int
    seconds: float
    before: int
    after: int
    wal: int


async def migrate_log(connection: "Connection[Record]", events: int) -> Report:
    """Fill an empty database with a log of the old layout, and migrate it. Raises BenchmarkError if one changed."""
    async with connection.transaction():
        for number, file in all_migrations().items():
            if number < LAYOUT:
                await migrate(connection, number, file)
    show_progress(f"filling a log with {events:,} events")
    await connection.execute(QUERIES["fill_before"], events, timeout=NO_LIMIT)
    await connection.execute(QUERIES["fill_head_before"], events)
    digest = await connection.fetchval(QUERIES["digest"], timeout=NO_LIMIT)
    before = await connection.fetchval(QUERIES["log_size"])
    wal = await connection.fetchval(QUERIES["wal_position"])
    show_progress("migrating it")
    started = time.perf_counter()
    # What is logged is no part of the report.
    with redirect_stdout(sys.stderr):
        await set_up_schema(connection)
    seconds = time.perf_counter() - started
    wal = await connection.fetchval(QUERIES["wal_position"]) - wal
    if await connection.fetchval(QUERIES["digest"], timeout=NO_LIMIT) != digest:
        fail("an event is not what it was")
    after = await connection.fetchval(QUERIES["log_size"])
    return Report(
        events=events, seconds=seconds, before=int(before), after=int(after), wal=int(wal)
    )


async def measure(given: argparse.Namespace) -> Report:
    """Do it on a Postgres of its own."""
    async with AsyncExitStack() as stack:
        postgres = await start_postgres(stack, stack.enter_context(scratch()) / "data")
        connection = await stack.enter_async_context(connected(postgres.dsn))
        return await migrate_log(connection, given.events)


def write(report: Report) -> None:
    """Write a report for people."""
    events = report.events
    sys.stdout.write(
        f"{events:,} events migrated in {report.seconds:.1f} s: {events / report.seconds:,.0f} a second\n"
        f"bytes an event: {report.before / events:.0f} before, {report.after / events:.0f} after,"
        f" {report.wal / events:.0f} of write-ahead log\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code."""
    parser = parser_of("storage.migration", __doc__)
    parser.add_argument(
        "--events", type=whole_number(1), default=1_000_000, metavar="N", help="(%(default)s)"
    )
    given = parser.parse_args(arguments)
    return run(measure(given), write, given)


if __name__ == "__main__":
    sys.exit(main())
