"""One projecting process at a time, over any number of servers on one database.

The lock belongs to a session: when its holder dies, Postgres frees it, and another process takes it at its next try.
It only saves work that would be done twice; what keeps two projectors apart is the fence on the checkpoint.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from eventstore.postgres.database import Connect, closed_event, run_connected
from eventstore.postgres.queries import QUERIES
from eventstore.tasks import in_background

if TYPE_CHECKING:
    from asyncpg import Connection, Record

logger = structlog.get_logger()

# Seconds between tries to take the lock.
TRY_SECONDS = 1.0


async def lead(connect: Connect, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work` whenever, and for as long as, this process holds the lock; until cancelled."""

    async def work_while_leading(connection: "Connection[Record]") -> None:
        while not await connection.fetchval(QUERIES["try_to_lead"]):  # noqa: ASYNC110 - a lock gives no event to wait for
            await asyncio.sleep(TRY_SECONDS)
        logger.info("leadership_gained", message="This process is projecting from now on.")
        async with (
            in_background(closed_event(connection).wait()) as closed,
            in_background(work()) as working,
        ):
            await asyncio.wait([working, closed], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                # It failed, or has nothing left to do: then the lead is kept without work.
                working.result()
                await closed
        logger.warning(
            "leadership_lost",
            message="This process stopped projecting, because the connection that holds its lock ended.",
        )

    await run_connected(connect, work_while_leading)
