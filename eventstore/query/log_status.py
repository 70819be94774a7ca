"""How far the log reaches, and how long what is not folded has waited: for metrics."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.query.queries import QUERIES

if TYPE_CHECKING:
    from eventstore.postgres.database import Database

# Among so many of the newest events it is looked who sent any.
NEWEST_EVENTS = 1_000


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The log at one moment.

    `head` is its newest position, of `recorded_at`, None if there is none. `waiting_seconds` is how long the oldest
    event that a live projection has yet to fold has waited, by projection; `last_received`, when the newest event of a
    provider was received, if it is among the newest of all.
    """

    head: int
    recorded_at: datetime | None
    server_version: str
    database_bytes: int
    waiting_seconds: Mapping[str, float]
    last_received: Mapping[str, datetime]


class LogStatusReader:
    """Reads the status of the log of one database."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    async def read(self) -> LogStatus:
        """Read it."""
        ((head, recorded_at, version, size),) = await self._database.fetch(
            QUERIES["read_log_status"]
        )
        waiting = await self._database.fetch(QUERIES["find_waiting"])
        received = await self._database.fetch(
            QUERIES["last_received"], max(0, head - NEWEST_EVENTS), head
        )
        return LogStatus(
            head=head,
            recorded_at=recorded_at,
            server_version=version,
            database_bytes=size,
            waiting_seconds={row["name"]: row["seconds"] for row in waiting},
            last_received={row["provider"]: row["received_at"] for row in received},
        )
