"""A log that is long already: written by SQL, and taken for folded."""

from benchmarks.harness.postgres import connected
from benchmarks.harness.progress import show_progress
from benchmarks.ingest.queries import QUERIES

# Events of one statement, so that there is progress to show.
CHUNK = 250_000
EVENTS_PER_STREAM = 10


async def fill(dsn: str, events: int) -> None:
    """Put `events` events on record in an empty log that nobody has open, in one transaction."""
    async with connected(dsn) as connection:
        async with connection.transaction():
            for first in range(1, events + 1, CHUNK):
                last = min(first + CHUNK - 1, events)
                await connection.execute(QUERIES["fill"], first, last, EVENTS_PER_STREAM)
                show_progress(f"filling a log: {last:,} of {events:,} events")
            await connection.execute(QUERIES["move_head"], events)
            await connection.execute(QUERIES["move_checkpoints"], events)
        show_progress("filling a log: vacuum and checkpoint")
        # What the filling left behind is not to be paid for by what is measured.
        await connection.execute("VACUUM ANALYZE events")
        await connection.execute("CHECKPOINT")
