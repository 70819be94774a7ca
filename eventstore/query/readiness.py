"""Whether a Loopledger does what it is there for: take deliveries, and fold them."""

from typing import TYPE_CHECKING

from eventstore.postgres.failures import TIMELINE_REMEDY
from eventstore.query.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.postgres.database import Database


class Readiness:
    """Looks for what is wrong with one database and the projections in it."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    async def find_problems(self) -> dict[str, str]:
        """What is wrong and what to do, by what it is wrong with: `postgres`, `log`, or a projection."""
        if not await self._database.is_available():
            return {"postgres": "does not answer"}
        problems = {}
        if row := await self._database.fetchrow(QUERIES["find_other_timeline"]):
            problems["log"] = (
                f"the server is on timeline {row['now']}, accepted is {row['accepted']}. {TIMELINE_REMEDY}"
            )
        rows = await self._database.fetch(QUERIES["find_held_up"])
        return problems | {row["name"]: row["error"] or _stuck(row) for row in rows}


def _stuck(row: "Record") -> str:
    return (
        f"has not folded event {row['position']}, which has waited for {row['seconds']:.0f} s: "
        "check that a server that projects is running, and what it logs"
    )
