"""A log that is long already: written by SQL, and taken for folded."""

from collections.abc import Callable

import asyncpg

# Events of one statement, so that there is progress to show.
STRETCH = 250_000
EVENTS_PER_STREAM = 10

# Narrow events, in streams whose names come in no order, as those of real things do.
FILL = """
INSERT INTO events (
    position, event_id, provider, topic, merchant_id, stream, received_at, recorded_at, headers, body
)
SELECT
    n, gen_random_uuid(), 'loopz', 'location.updated', 'm-0',
    'loopz/m-0/location/' || md5((n / $3)::text)::uuid, now(), now(), '', '{}'
FROM generate_series($1::bigint, $2::bigint) AS n
"""
MOVE_HEAD = "UPDATE log_head SET position = $1, recorded_at = now()"
# As if every projection had seen all of it and handled none: checkpoint = folded + ignored + quarantined.
MOVE_CHECKPOINTS = "UPDATE projections SET checkpoint = $1, ignored = $1"


async def fill(dsn: str, events: int, show: Callable[[str], None]) -> None:
    """Put `events` events on record in an empty log that nobody has open, in one transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            for first in range(1, events + 1, STRETCH):
                last = min(first + STRETCH - 1, events)
                await connection.execute(FILL, first, last, EVENTS_PER_STREAM)
                show(f"filling a log: {last:,} of {events:,} events")
            await connection.execute(MOVE_HEAD, events)
            await connection.execute(MOVE_CHECKPOINTS, events)
        show("filling a log: vacuum and checkpoint")
        # What the filling left behind is not to be paid for by what is measured.
        await connection.execute("VACUUM ANALYZE events")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
