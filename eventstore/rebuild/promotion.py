"""A promotion: a new generation is compared with the live one, and made live in its place.

It waits until nobody is reading that for long.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import structlog

from eventstore.fold.projection import Projection
from eventstore.fold.projector import Projector
from eventstore.fold.refiling import read_thing
from eventstore.fold.status import Diff
from eventstore.postgres.failures import describe, is_outage
from eventstore.postgres.leader import Term
from eventstore.postgres.schema import lock_schema
from eventstore.rebuild.build import CHANGED_BY_OTHERS, Dependencies
from eventstore.rebuild.diff import Comparison
from eventstore.rebuild.pool import BuildFailedError
from eventstore.rebuild.queries import QUERIES
from eventstore.rebuild.readers import ReaderWatch
from eventstore.tasks import Backoff, raise_if_cancelled

logger = structlog.get_logger()

# Seconds between tries to make a generation live while somebody is reading the views: the first, doubled up to the
# longest. How long a promotion waits before it is shown.
FIRST_SWITCH_PAUSE = 0.1
LONGEST_SWITCH_PAUSE = 2.0
SHOW_WAIT_SECONDS = 0.5


class Promotion:
    """The `new` generation of a projection beside the `live` one; both follow the log meanwhile.

    `on_switch` is called with the new one's projector while neither folds.
    """

    def __init__(
        self,
        projection: Projection[Any],
        deps: Dependencies,
        term: Term,
        live: Projector[Any],
        new: Projector[Any],
        on_switch: Callable[[Projector[Any]], None],
    ) -> None:
        self._name = projection.name
        self._projection = projection
        self._deps = deps
        self._term = term
        self._live = live
        self._new = new
        self._on_switch = on_switch

    async def compare(self) -> Diff:
        """Compare the two, at one position of both unless the live one has stopped. Raises BuildFailedError."""
        generation = self._new.generation
        connection = await self._deps.database.connect()
        try:
            await connection.execute(QUERIES["disable_idle_timeout"])
            snapshot = connection.transaction(isolation="repeatable_read", readonly=True)
            async with AsyncExitStack() as held:
                await held.enter_async_context(self._held_at_one_position())
                await snapshot.start()
                # The snapshot is taken with this; what is folded from here on does not show in it.
                row = await connection.fetchrow(QUERIES["read_positions"], self._name, generation)
                if row is None:
                    raise BuildFailedError(problem="it is no longer registered")
                if not self._deps.database.distributed:
                    # There each machine takes a snapshot of its own, and later: nothing is folded until all is read.
                    await held.aclose()
                comparison = Comparison(
                    self._projection, self._deps.sources, row["live"], generation, connection
                )
                return await comparison.diff(
                    row["position"],
                    row["live_position"],
                    lambda stream: read_thing(
                        self._deps.database, self._name, generation, stream, self._deps.limits
                    ),
                )
        finally:
            connection.terminate()

    async def run(self) -> None:
        """Make a generation live once nobody reads the views for long; it is not behind the one that was."""
        watch = ReaderWatch(self._deps.database, self._live.tables)
        backoff = Backoff(FIRST_SWITCH_PAUSE, LONGEST_SWITCH_PAUSE)
        since = time.monotonic()
        while True:
            readers = await watch.long_readers()
            if not readers and await self._try_to_switch():
                break
            # A report may read the views for long, and whoever waited for its lock would hold up every later reader.
            pause = backoff.next_pause()
            await self._show_wait(readers, time.monotonic() - since)
            await asyncio.sleep(pause)
        logger.info(
            "generation_promoted",
            message="A generation was promoted and is live now.",
            projection=self._name,
            generation=self._new.generation,
        )

    async def _show_wait(self, readers: str, seconds: float) -> None:
        """Show what a promotion waits for, and for how long, in the registry and in the log."""
        if seconds < SHOW_WAIT_SECONDS:
            return
        name, generation = self._name, self._new.generation
        who = readers or "many short queries"
        await self._deps.database.execute(
            QUERIES["record_waiting"],
            name,
            generation,
            f"{who}: reading {name} for {seconds:.0f} s already",
            self._term.number,
        )
        logger.info(
            "promotion_waiting",
            message="A promotion waits until nobody is reading the views any more.",
            projection=name,
            generation=generation,
            seconds=round(seconds, 1),
            readers=who,
        )

    async def _try_to_switch(self) -> bool:
        """Make a generation live instead of the other; False if somebody is reading the views."""
        live, new = self._live.generation, self._new.generation
        async with self._held_at_one_position():
            try:
                async with self._term.transaction(self._deps.database) as connection:
                    await connection.execute(QUERIES["commit_durably"])
                    await connection.execute(QUERIES["limit_lock_wait"])
                    await lock_schema(connection)
                    if not await connection.fetchval(QUERIES["retire_live"], self._name, live, new):
                        raise BuildFailedError(problem=CHANGED_BY_OTHERS)
                    await connection.execute(QUERIES["make_live"], self._name, new)
                    await self._new.tables.create_views(connection)
            except asyncpg.LockNotAvailableError:
                return False
            self._live.live, self._new.live = False, True
            self._on_switch(self._new)
        return True

    @asynccontextmanager
    async def _held_at_one_position(self) -> AsyncIterator[None]:
        """Keep both generations from folding, at the same position unless the live one cannot get there."""
        async with self._live.lock, self._new.lock:
            # The response to a write may have been lost.
            await self._live.reload()
            await self._new.reload()
            await self._new.fold_up_to(self._live.checkpoint)
            try:
                await self._live.fold_up_to(self._new.checkpoint)
            except Exception as error:
                raise_if_cancelled()
                if is_outage(error):
                    raise
                # The new generation may be the remedy: it must not depend on the old one.
                logger.warning(
                    "live_generation_stopped",
                    message="The live generation cannot go on; the new one is compared with where it stopped.",
                    projection=self._name,
                    error=describe(error),
                )
            yield
