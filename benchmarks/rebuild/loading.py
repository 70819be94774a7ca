"""A log that is there before its server: events put on record by COPY, in the data directory of a Loopledger."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness.command import fail
from benchmarks.harness.postgres import connected
from benchmarks.harness.progress import progress
from benchmarks.rebuild.events import COLUMNS, Plan, lines
from benchmarks.rebuild.queries import QUERIES
from eventstore.postgres.cluster import embedded_dsn
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.roles import ADMIN
from providers import load_providers

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# Lines that are sent at a time.
CHUNK = 1_000
# Events of which it is looked whether the providers would have put them where they are.
SAMPLE = 1_000
STOP_SECONDS = 60.0


async def load(data: Path, plan: Plan) -> None:
    """Put a log on record in the data directory of a Loopledger that has none, vacuumed and on disk.

    Raises BenchmarkError if an event is not where its provider would have put it.
    """
    async with EmbeddedPostgres(data, stop_seconds=STOP_SECONDS) as postgres:
        if postgres.dsn_for(ADMIN) != embedded_dsn(data, ADMIN):
            fail(f"the path of {data} is too long for a socket; TMPDIR chooses another")
        async with connected(postgres.dsn_for(ADMIN)) as connection:
            with progress(f"loading {plan.events:,} events", plan.events) as show:
                await copy_events(connection, plan, show)
            with progress("loading: vacuum and checkpoint"):
                await _check(connection)
                # What loading left behind is not to be paid for by what is measured.
                await connection.execute("VACUUM ANALYZE events", timeout=None)
                await connection.execute("CHECKPOINT", timeout=None)


async def copy_events(
    connection: "Connection[Record]", plan: Plan, show: Callable[[float], None]
) -> None:
    """Put the events of a plan on record in an empty log, in one transaction."""
    made = lines(plan)

    def take() -> bytes:
        return "".join(islice(made, CHUNK)).encode()

    async def chunks() -> AsyncIterator[bytes]:
        done = 0
        # While Postgres takes one, the next is made.
        ahead = asyncio.create_task(asyncio.to_thread(take))
        while chunk := await ahead:
            ahead = asyncio.create_task(asyncio.to_thread(take))
            yield chunk
            done += CHUNK
            show(min(done, plan.events))

    async with connection.transaction():
        # Entered one by one, in no order, names of streams would take longer than everything else.
        key = await connection.fetchval(QUERIES["key"])
        await connection.execute(QUERIES["drop_key"])
        await connection.copy_to_table(
            "events", source=chunks(), columns=COLUMNS, format="text", timeout=None
        )
        await connection.execute(QUERIES["sort_in_memory"])
        await connection.execute(QUERIES["make_key"].format(key=key), timeout=None)
        await connection.execute(QUERIES["move_head"])


async def _check(connection: "Connection[Record]") -> None:
    providers = load_providers({})
    rows = await connection.fetch(QUERIES["sample"], SAMPLE)
    for row in rows:
        pairs = (line.split(": ", 1) for line in row["headers"].decode().splitlines())
        found = providers[row["provider"]].recognise(dict(pairs), row["body"])
        loaded = (row["topic"], row["merchant_id"], row["program_id"], row["stream"])
        if loaded != (found.topic, found.merchant_id, found.program_id, found.stream):
            fail(f"an event was loaded as {loaded}, and its provider says {found}")
