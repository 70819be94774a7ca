"""Who reads the views of a projection: a promotion does not queue for them behind a long report.

A lock that is waited for holds up every reader that comes after. So it is only asked for while nobody has been reading
for long.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from eventstore.fold.generation import GenerationTables
from eventstore.rebuild.queries import QUERIES

if TYPE_CHECKING:
    from eventstore.postgres.database import Database

# Seconds: a transaction that holds its lock for longer is a long one.
BRIEF_SECONDS = 0.1


class ReaderWatch:
    """Looks who reads the views of these tables."""

    def __init__(self, database: "Database", tables: GenerationTables[Any]) -> None:
        self._database = database
        self._views = [table.qualified_view for table in tables.views]

    async def long_readers(self) -> str:
        """Name those who have been reading for long, for people; empty if there are none."""
        first = await self._look()
        if not first:
            return ""
        # Since when others read is shown to few roles: whoever is seen twice has been reading in between.
        await asyncio.sleep(BRIEF_SECONDS)
        second = await self._look()
        return ", ".join(second[each] for each in second if each in first)

    async def _look(self) -> dict[tuple[int, str], str]:
        rows = await self._database.fetch(QUERIES["list_readers"], self._views)
        return {
            (pid, transaction): f"session {pid} ({user or 'unknown'}, {application or 'unnamed'})"
            for pid, transaction, user, application in rows
        }
