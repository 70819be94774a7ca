"""Whether a Loopledger does what it is there for: take deliveries; and, apart from that, fold them."""

from typing import TYPE_CHECKING

from eventstore.postgres.failures import TIMELINE_REMEDY
from eventstore.query.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Collection

    from asyncpg import Record

    from eventstore.postgres.database import Database


NOT_SET_UP = "is not set up yet: check that a server that projects is running, and what it logs"


class Readiness:
    """Looks for what is wrong with one database, and with these projections in it."""

    def __init__(self, database: "Database", projections: "Collection[str]" = ()) -> None:
        self._database = database
        self._projections = projections

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
        if head < known_head:
            problems["log"] = (
                f"the log ends at position {head}, and is known to have reached {known_head}. {TIMELINE_REMEDY}"
            )
        if row := await self._database.fetchrow(QUERIES["find_other_timeline"]):
            problems["log"] = (
                f"the server is on timeline {row['now']}, accepted is {row['accepted']}. {TIMELINE_REMEDY}"
            )
        return problems

    async def find_held_up(self) -> dict[str, str]:
        """What holds projections up and what to do, by their names."""
        names = await self._database.fetch(QUERIES["find_not_set_up"], list(self._projections))
        rows = await self._database.fetch(QUERIES["find_held_up"])
        return {name: NOT_SET_UP for (name,) in names} | {
            row["name"]: row["error"] or _stuck(row) for row in rows
        }


def _stuck(row: "Record") -> str:
    return (
        f"has not folded event {row['position']}, which has waited for {row['seconds']:.0f} s: "
        "check that a server that projects is running, and what it logs"
    )
