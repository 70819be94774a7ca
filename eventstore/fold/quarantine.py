"""The quarantine: events that the live generation of a projection could not fold, each with why."""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.fold.queries import QUERIES

if TYPE_CHECKING:
    from eventstore.postgres.database import Database


class QuarantinedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a projection could not fold: its `position`, `stream` and `topic`.

    `error` says why it could not, `quarantined_at` since when it is in quarantine.
    """

    position: int
    stream: str
    topic: str
    error: str
    quarantined_at: datetime


class Quarantine:
    """What is in quarantine in one database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    async def find(self, projection: str, position: int) -> QuarantinedEvent | None:
        """The event at this position, if it is in quarantine."""
        row = await self._database.fetchrow(QUERIES["find_quarantined"], projection, position)
        return None if row is None else QuarantinedEvent(**row)

    async def errors(self, projection: str, generation: int, stream: str) -> dict[int, str]:
        """The positions in a generation's quarantine of one stream, each with its error."""
        rows = await self._database.fetch(
            QUERIES["quarantined_positions"], projection, generation, stream
        )
        return {row["position"]: row["error"] for row in rows}

    async def streams(self, projection: str, id_: str) -> list[str]:
        """The streams that end in this id, as names of streams spell it, and of which events are in quarantine."""
        rows = await self._database.fetch(QUERIES["quarantined_streams"], projection, id_)
        return [row["stream"] for row in rows]
