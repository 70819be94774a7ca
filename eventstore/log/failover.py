"""Failovers: the timelines of the write-ahead log on which the log has grown, and accepting another.

A replica that is promoted begins a new timeline, and so does a backup that is restored; either may lack events that
were acknowledged. So appends stop until a person has had a look (append_events in schema.sql).
"""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import LogCorruptedError
from eventstore.log.queries import QUERIES

if TYPE_CHECKING:
    from eventstore.postgres.database import Database


class Acceptance(msgspec.Struct, frozen=True):
    """A timeline that was accepted.

    `acceptance` counts them from 1. The log went on after `position`, on `timeline`, from `accepted_at` on.
    """

    acceptance: int
    timeline: int
    position: int
    accepted_at: datetime


class FailoverStatus(msgspec.Struct, frozen=True):
    """Whether the log may grow: `timeline`, that of the server now, has to be `accepted`.

    `head` is the newest position; `acceptances` tell how that came to be, the newest first.
    """

    timeline: int
    accepted: int
    head: int
    acceptances: list[Acceptance]


async def read_failover(database: "Database") -> FailoverStatus:
    """Read what there is. Raises LogCorruptedError."""
    row = await database.fetchrow(QUERIES["read_timeline"])
    if row is None:
        raise LogCorruptedError(problem="no head row")
    rows = await database.fetch(QUERIES["list_timelines"])
    timeline, accepted, head = row
    return FailoverStatus(timeline, accepted, head, [Acceptance(*one) for one in rows])


async def accept_timeline(database: "Database") -> Acceptance:
    """Have the log go on from where it ends here, on the timeline of this server. Raises LogCorruptedError."""
    async with database.transaction() as connection:
        await connection.fetch(QUERIES["lock_head"])
        row = await connection.fetchrow(QUERIES["accept_timeline"])
        if row is None:
            raise LogCorruptedError(problem="no head row")
        await connection.execute(QUERIES["move_to_timeline"])
    return Acceptance(*row)
