"""One projecting process at a time, over any number of servers on one database.

The lock belongs to a session: when its holder dies, Postgres frees it, and another process takes over at its next look.
It only saves work that would be done twice; what keeps two projectors apart is the fence on the checkpoint.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from eventstore.postgres.database import Connect, closed, keep_connected
from eventstore.postgres.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record

logger = structlog.get_logger()

# Seconds between looks at whether the lock is free.
LOOK_SECONDS = 1.0


async def lead(connect: Connect, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` whenever, and for as long as, this process holds the lock; until cancelled."""

    async def work_while_leading(connection: "Connection[Record]") -> None:
        ended = asyncio.create_task(closed(connection).wait())
        while not await connection.fetchval(QUERIES["try_to_lead"]):  # noqa: ASYNC110 - it asks others, who tell nobody
            await asyncio.sleep(LOOK_SECONDS)
        logger.info("this process projects")
        working = asyncio.ensure_future(work())
        try:
            await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                # It has nothing left to do, or an error that ends this process.
                working.result()
                await ended
        finally:
            for task in (working, ended):
                task.cancel()
            await asyncio.gather(working, ended, return_exceptions=True)
        logger.warning("lost the lead: its connection ended")

    await keep_connected(connect, work_while_leading)
