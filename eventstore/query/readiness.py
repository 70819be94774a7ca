"""Whether a Loopledger does what it is there for: take deliveries; and, apart from that, fold them."""

import time
from typing import TYPE_CHECKING

from eventstore.postgres import holes
from eventstore.postgres.failures import TIMELINE_REMEDY
from eventstore.query.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Collection

    from asyncpg import Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Database


NOT_SET_UP = "is not set up yet: check that a server that projects is running, and what it logs"


RESTORE = "Something removed it, or moved the head; restore the database from a backup."

CLOCK_AHEAD = (
    "events were recorded as of {moment}, which is yet to come, and so are all until then: correct the clock of the "
    "database server; what gives no time of its own counts at that time, and so do questions about recorded times"
)


class Readiness:
    """Looks for what is wrong with one database, and with these projections in it."""

    def __init__(
        self, database: "Database", limits: "Limits", projections: "Collection[str]" = ()
    ) -> None:
        self._database = database
        self._limits = limits
        self._projections = projections
        # Up to here the newest events were all there when they were counted.
        self._counted = 0
        # Since when head and events have disagreed, by a clock that does not go back.
        self._disagreeing_since: float | None = None

    async def find_problems(self, known_head: int = 0) -> dict[str, str]:
        """Why deliveries cannot be taken and what to do, by what is wrong: `postgres` or `log`.

        `known_head` is a position that the log has reached.
        """
        if not await self._database.is_available():
            return {"postgres": "does not answer"}
        if await self._database.fetchval(QUERIES["is_read_only"]):
            return {
                "postgres": "is read-only: set DATABASE_URL to the primary, or promote this replica"
            }
        problems = {}
        head = await self._database.fetchval(QUERIES["read_log_end"])
        if head is None:
            return {"log": "the log has no head row: restore the database from a backup"}
        if problem := await self._find_disagreement(head):
            problems["log"] = problem
        if head < known_head:
            problems["log"] = (
                f"the log ends at position {head}, and is known to have reached {known_head}. {TIMELINE_REMEDY}"
            )
        if row := await self._database.fetchrow(QUERIES["find_other_timeline"]):
            problems["log"] = (
                f"the server is on timeline {row['now']}, accepted is {row['accepted']}. {TIMELINE_REMEDY}"
            )
        return problems

    async def _find_disagreement(self, head: int) -> str | None:
        """How the head and the newest events disagree; those that were counted last time are not counted again."""
        after = max(self._counted, head - holes.CHECKED_EVENTS)
        problem = None
        if (hole := await holes.find_hole(self._database, after, head)) is not None:
            problem = (
                f"by its head the log reaches to {head}, but there is no event {hole}. {RESTORE}"
            )
        elif await holes.find_hole(self._database, head, head + 1) is None:
            # Unless that one was appended just now.
            newest = await self._database.fetchval(QUERIES["read_log_end"])
            if newest == head:
                problem = f"by its head the log reaches to {head}, but there is an event {head + 1}. {RESTORE}"
        if problem is None:
            self._counted, self._disagreeing_since = head, None
            return None
        # Where the log is distributed over machines, an event of a moment ago may come late.
        now = time.monotonic()
        self._disagreeing_since = self._disagreeing_since or now
        wait = self._limits.gap_seconds if self._database.distributed else 0.0
        return problem if now - self._disagreeing_since >= wait else None

    async def find_held_up(self) -> dict[str, str]:
        """What holds projections up and what to do, by their names; by `log`, a hole in it, or times yet to come."""
        problems = {}
        if (hole := await self._database.fetchval(QUERIES["read_hole"])) is not None:
            problems["log"] = f"there is no event {hole}. {RESTORE}"
        ahead = self._limits.clock_ahead_seconds
        if (
            moment := await self._database.fetchval(QUERIES["find_clock_ahead"], ahead)
        ) is not None:
            problems.setdefault("log", CLOCK_AHEAD.format(moment=moment.isoformat()))
        names = await self._database.fetch(QUERIES["find_not_set_up"], list(self._projections))
        rows = await self._database.fetch(QUERIES["find_held_up"])
        problems |= {name: NOT_SET_UP for (name,) in names}
        return problems | {row["name"]: row["error"] or _stuck(row) for row in rows}


def _stuck(row: "Record") -> str:
    return (
        f"has not folded event {row['position']}, which has waited for {row['seconds']:.0f} s: "
        "check that a server that projects is running, and what it logs"
    )
