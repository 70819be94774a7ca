"""Scans the whole log for holes, slowly, over and over.

A projection that meets a hole reports it. Behind the checkpoints of all projections only a rebuild reads the log, and
by then it is too late to find out.
"""

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from eventstore.errors import LogCorruptedError
from eventstore.log.queries import QUERIES
from eventstore.postgres.failures import describe, is_outage
from eventstore.postgres.holes import find_hole
from eventstore.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# Seconds between two looks at a part of the log, and between its end and its beginning.
LOOK_SECONDS = 1.0
ROUND_SECONDS = 10.0


class LogScan:
    """Scans one log. Its progress, and the hole that it found, are in the database for every process to report."""

    def __init__(self, database: "Database", limits: "Limits") -> None:
        self._database = database
        self._limits = limits
        # A hole that is not on record yet, and since when it has been seen, by a clock that does not go back.
        self._suspected: tuple[int, float] = (0, 0.0)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            at_end = False
            try:
                at_end = await self.look()
            except Exception as error:
                raise_if_cancelled()
                if not is_outage(error):
                    logger.error(
                        "log_scan_failed",
                        message="The log could not be scanned for holes; trying again.",
                        exc_info=error,
                    )
                else:
                    logger.debug(
                        "log_scan_waiting",
                        message="The scan of the log for holes waits for Postgres.",
                        error=describe(error),
                    )
            await asyncio.sleep(ROUND_SECONDS if at_end else LOOK_SECONDS)

    async def look(self) -> bool:
        """Look at the next part of the log, at most `scan_events`; True at its end. Raises LogCorruptedError."""
        row = await self._database.fetchrow(QUERIES["read_scan"])
        if row is None:
            raise LogCorruptedError(problem="no head row")
        after: int = row["position"]
        head: int = row["head"]
        # Where an operator accepted a loss, the log may end before a hole that was found.
        on_record: int | None = row["hole"]
        known_hole = on_record if on_record is not None and on_record <= head else None
        after = after if after < head else 0
        through = min(head, after + self._limits.scan_events)
        hole = await find_hole(self._database, after, through)
        if hole is not None and hole != known_hole and not self._has_lasted(hole):
            return False
        if hole != known_hole:
            self._report(hole, known_hole)
        # It goes on once the hole has been filled.
        reached = through if hole is None else hole - 1
        await self._database.execute(QUERIES["record_scan"], reached, hole)
        return reached >= head

    def _has_lasted(self, hole: int) -> bool:
        """Whether a hole is one: where the log is distributed over machines, an event may come late."""
        now = time.monotonic()
        if self._suspected[0] != hole:
            self._suspected = (hole, now)
        wait = self._limits.gap_seconds if self._database.distributed else 0.0
        return now - self._suspected[1] >= wait

    @staticmethod
    def _report(hole: int | None, known_hole: int | None) -> None:
        if known_hole is not None:
            logger.warning(
                "log_hole_filled",
                message="The event that was missing from the log is there again.",
                position=known_hole,
            )
        if hole is not None:
            logger.critical(
                "log_hole_found",
                message="An event is missing from the log.",
                position=hole,
            )
