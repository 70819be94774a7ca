"""The partitions of the log: the next ones made ahead, the full ones vacuumed once.

An append makes a partition itself if nobody has made it, and autovacuum comes by in the end: this spares appends and
readers both.
"""

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from eventstore.log.queries import QUERIES
from eventstore.postgres.database import run_connected
from eventstore.postgres.schema import NO_LIMIT

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# Seconds between two looks at the partitions.
LOOK_SECONDS = 60.0

# Seconds until a partition is vacuumed again, if a snapshot kept the vacuum from finishing it.
RETRY_SECONDS = 3600.0


class PartitionKeeper:
    """Sees to the partitions of one database, on a connection of its own."""

    def __init__(self, database: "Database") -> None:
        self._database = database
        # When each full partition was vacuumed, by a clock that does not go back.
        self._vacuumed: dict[str, float] = {}

    async def run(self) -> None:
        """See to them until cancelled."""
        await run_connected(self._database.connect, self._keep)

    async def _keep(self, connection: "Connection[Record]") -> None:
        while True:
            await self.look(connection)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, connection: "Connection[Record]") -> None:
        """Make what is to be made ahead; vacuum what has become full since the last look."""
        if await connection.fetchval(QUERIES["partition_is_due"]):
            async with connection.transaction():
                # Whoever holds a lock on the log for long is not to hold up appends behind us.
                await connection.execute(QUERIES["limit_lock_wait"])
                made = await connection.fetchval(QUERIES["make_partitions_ahead"])
            logger.info(
                "partitions_made",
                message="There are partitions ahead of the log again.",
                partitioned=made,
            )
        for (table,) in await connection.fetch(QUERIES["full_partitions"]):
            now = time.monotonic()
            if now - self._vacuumed.get(table, -RETRY_SECONDS) >= RETRY_SECONDS:
                self._vacuumed[table] = now
                query = QUERIES["vacuum_partition"].format(table=table)
                await connection.execute(query, timeout=NO_LIMIT)
                logger.info(
                    "partition_vacuumed",
                    message="A partition that is full was vacuumed and frozen.",
                    table=table,
                )
