"""Generations of the projections: the live ones follow the log, and a new one is built, compared and switched to.

The registry says what is to be done, and how far it is; whoever asks writes there. One process at a time, the one that
projects, does it. Whatever kills it, the next one finds in the registry where to go on, or to begin again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import structlog

from eventstore.errors import LoopledgerError
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection
from eventstore.fold.projector import Projector
from eventstore.fold.status import REBUILDING, Diff, ProjectionStatus, Rebuild
from eventstore.postgres.failures import describe, is_outage, is_transient
from eventstore.postgres.schema import lock_schema
from eventstore.rebuild.build import MEANWHILE, Build, Engine
from eventstore.rebuild.diff import Comparison
from eventstore.rebuild.pool import BuildFailedError
from eventstore.rebuild.queries import QUERIES
from eventstore.tasks import cancel_all, in_background, raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Record

logger = structlog.get_logger()

# Seconds between looks at what the registry asks for: if nothing is known of, and while a rebuild is there.
LOOK_SECONDS = 1.0
BUSY_SECONDS = 0.25

# Seconds between looks at what another task of this process does.
GLANCE_SECONDS = 0.05


class Conductor:
    """Has the live generations follow the log, and does the rebuilds that are asked for."""

    def __init__(self, projections: Sequence[Projection[Any]], engine: Engine) -> None:
        self._engine = engine
        self._keepers = {one.name: Lifecycle(one, engine) for one in projections}

    async def set_up(self) -> None:
        """See to the tables of every live generation. Safe when two servers do it at once."""
        for keeper in self._keepers.values():
            await keeper.set_up()

    async def run(self) -> None:
        """Project until cancelled."""
        async with asyncio.TaskGroup() as group:
            for keeper in self._keepers.values():
                group.create_task(keeper.follow(), name=f"projector-{keeper.name}")
            group.create_task(self._heed(), name="rebuilds")

    async def _heed(self) -> None:
        """Look what is asked for, again and again."""
        try:
            while True:
                found: dict[str, ProjectionStatus] = {}
                with reported("could not look for rebuilds"):
                    found = await self._engine.registry.statuses()
                for name, keeper in self._keepers.items():
                    with reported("could not do what a rebuild asks for"):
                        await keeper.heed(found[name])
                busy = any(each.rebuild is not None for each in found.values())
                await asyncio.sleep(BUSY_SECONDS if busy else LOOK_SECONDS)
        finally:
            for keeper in self._keepers.values():
                await keeper.stop()


class Lifecycle:
    """Keeps the generations of one projection: the live one, and the one that may take its place."""

    def __init__(self, projection: Projection[Any], engine: Engine) -> None:
        self.name = projection.name
        self._projection = projection
        self._engine = engine
        self._live = engine.projector(projection)
        self._switched = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._noticed = False
        self._wanted: str | None = None

    async def set_up(self) -> None:
        """See to the tables of the live generation."""
        await self._live.set_up()

    async def follow(self) -> None:
        """Run the live projector, whichever that is."""
        while True:
            async with in_background(self._live.run()):
                # A projector that stopped for good is waited out too: another generation may take its place.
                await self._switched.wait()
            self._switched.clear()

    async def _notice(self, *, stale: bool) -> None:
        """Say, at the start, that other code folded the live generation; rebuild it if that is to be done unasked."""
        if not stale:
            return
        if self._engine.auto:
            try:
                await self._engine.registry.request_rebuild(self.name, promote=True)
                logger.warning("a projection is stale; rebuilding it", projection=self.name)
            except LoopledgerError as error:
                logger.warning("a projection is stale", projection=self.name, error=str(error))
        else:
            advice = f"run: loopledger rebuild {self.name}"
            logger.warning("a projection is stale", projection=self.name, advice=advice)

    async def heed(self, status: ProjectionStatus) -> None:
        """Do what the registry asks for."""
        rebuild = status.rebuild
        self._wanted = None if rebuild is None else rebuild.wanted
        await self._find_live(status.live.generation)
        if not self._noticed:
            self._noticed = True
            await self._notice(stale=status.live.stale)
        if rebuild is None:
            return
        if rebuild.wanted == "discard":
            await self.stop()
            await self._discard(rebuild)
        elif rebuild.status != "failed" and (self._working is None or self._working.done()):
            self._working = asyncio.create_task(self._work(rebuild), name=f"rebuild-{self.name}")

    async def _find_live(self, generation: int) -> None:
        """Follow the live generation, if that is another: another process switched, or the answer to that was lost."""
        if generation != self._live.generation:
            live = self._engine.projector(self._projection)
            await live.set_up()
            self._live = live
            self._switched.set()

    async def stop(self) -> None:
        """Stop working at a rebuild; the registry keeps how far it is."""
        if self._working is not None:
            await cancel_all(self._working)
            self._working = None

    async def _work(self, rebuild: Rebuild) -> None:
        """Take a rebuild from where it is to where it is live."""
        shadow = Build(self._projection, self._engine, rebuild.generation)
        try:
            row = await self._registered(shadow.generation)
            if row is None or row["status"] not in REBUILDING:
                # It was done with since the registry was looked at.
                return
            outdated = any(one != shadow.fingerprint for one in row["fingerprints"])
            # What other code began is begun again; what was live once is taken as it is.
            if row["status"] == "building" or (outdated and row["retired_at"] is None):
                await shadow.build(again=row["target"] is not None)
            projector = self._engine.projector(self._projection, shadow.generation)
            await projector.set_up()
            async with in_background(projector.run()):
                await self._catch_up(projector)
                await self._wait_for_promotion(projector)
                await self._promote(projector)
        except Exception as error:
            raise_if_cancelled()
            if is_transient(error):
                logger.warning("a rebuild waits for Postgres", error=describe(error))
                return
            logger.error("a rebuild failed", projection=self.name, exc_info=error)
            await self._fail(shadow.generation, error)

    async def _registered(self, generation: int) -> "Record | None":
        return await self._engine.database.fetchrow(
            QUERIES["find_generation"], self.name, generation
        )

    async def _catch_up(self, projector: Projector[Any]) -> None:
        """Wait until a generation is about where the live one is."""
        while projector.lag > self._engine.limits.fold_events:
            if projector.error is not None:
                raise BuildFailedError(problem=projector.error)
            await asyncio.sleep(GLANCE_SECONDS)

    async def _wait_for_promotion(self, projector: Projector[Any]) -> None:
        """Compare, say that it is ready, and wait for the word."""
        row = await self._registered(projector.generation)
        diff: Diff | None = None
        if row is not None and row["retired_at"] is None:
            diff = await self._compare(projector)
        await self._engine.database.execute(
            QUERIES["mark_ready"],
            self.name,
            projector.generation,
            None if diff is None else msgspec.json.encode(diff),
        )
        logger.info("a rebuild is ready", projection=self.name, generation=projector.generation)
        while self._wanted != "promote":  # noqa: ASYNC110 - the registry is looked at in intervals too
            await asyncio.sleep(GLANCE_SECONDS)

    @asynccontextmanager
    async def _level(self, projector: Projector[Any]) -> AsyncIterator[None]:
        """Hold both generations at one position, unless the live one cannot go on."""
        async with self._live.lock, projector.lock:
            # The answer to a fold may have been lost.
            await self._live.reload()
            await projector.reload()
            await projector.fold_up_to(self._live.checkpoint)
            try:
                await self._live.fold_up_to(projector.checkpoint)
            except Exception as error:
                raise_if_cancelled()
                if is_outage(error):
                    raise
                # The new generation may be the cure: it must not depend on the old one's health.
                logger.warning("the live generation stands still", error=describe(error))
            yield

    async def _compare(self, projector: Projector[Any]) -> Diff:
        generation = projector.generation
        connection = await self._engine.database.connect()
        try:
            await connection.execute(QUERIES["disable_idle_timeout"])
            snapshot = connection.transaction(isolation="repeatable_read", readonly=True)
            async with self._level(projector):
                await snapshot.start()
                # The snapshot is taken with this; what is folded from here on does not show in it.
                row = await connection.fetchrow(QUERIES["read_positions"], self.name, generation)
            if row is None:
                raise BuildFailedError(problem="it is no longer registered")
            comparison = Comparison(
                self._projection, self._engine.sources, row["live"], generation, connection
            )
            return await comparison.diff(
                row["position"], row["live_position"], self._engine.reader.stream
            )
        finally:
            connection.terminate()

    async def _promote(self, projector: Projector[Any]) -> None:
        """Make a generation live, all at once; it is not behind the one that was."""
        while not await self._switch(projector):  # noqa: ASYNC110 - who reads tells nobody
            # A report reads the view for long. To wait in line for it would hold up every reader behind.
            await asyncio.sleep(BUSY_SECONDS)
        self._switched.set()
        generation = projector.generation
        logger.info("promoted", projection=self.name, generation=generation)
        await self._prune()

    async def _switch(self, projector: Projector[Any]) -> bool:
        """Switch; False if somebody reads the view just now."""
        live, new = self._live.generation, projector.generation
        async with self._level(projector):
            try:
                async with self._engine.database.transaction() as connection:
                    await connection.execute(QUERIES["commit_durably"])
                    await connection.execute(QUERIES["limit_lock_wait"])
                    await lock_schema(connection)
                    if not await connection.fetchval(QUERIES["retire_live"], self.name, live, new):
                        raise BuildFailedError(problem=MEANWHILE)
                    await connection.execute(QUERIES["make_live"], self.name, new)
                    await projector.tables.create_views(connection)
            except asyncpg.LockNotAvailableError:
                return False
            self._live.live, projector.live = False, True
            self._live = projector
        return True

    async def _prune(self) -> None:
        """Drop the generations that were live too long ago; those that somebody reads just now, another time."""
        try:
            rows = await self._engine.database.fetch(
                QUERIES["list_surplus_generations"], self.name, self._engine.limits.retired_kept
            )
            for row in rows:
                await self._forget(row["generation"])
        except Exception as error:  # noqa: BLE001 - it is only room on the disk
            raise_if_cancelled()
            logger.warning("could not drop a generation", error=describe(error))

    async def _forget(self, generation: int) -> None:
        """Forget a generation, whatever it is, unless it is live."""
        async with self._engine.database.transaction() as connection:
            if await connection.fetchval(QUERIES["delete_generation"], self.name, generation):
                await GenerationTables(self._projection, generation).drop(connection)
                logger.info("dropped a generation", projection=self.name, generation=generation)

    async def _discard(self, rebuild: Rebuild) -> None:
        """Forget a rebuild; what was live once stays as it was."""
        retired = await self._engine.database.fetchval(
            QUERIES["return_to_retired"], self.name, rebuild.generation, None
        )
        if retired is None:
            await self._forget(rebuild.generation)

    async def _fail(self, generation: int, error: Exception) -> None:
        """Keep the reason; what was live once stays as it was, of the rest only the entry stays."""
        text = describe(error)
        database = self._engine.database
        if await database.fetchval(QUERIES["return_to_retired"], self.name, generation, text):
            return
        async with database.transaction() as connection:
            if await connection.fetchval(QUERIES["mark_failed"], self.name, generation, text):
                await GenerationTables(self._projection, generation).drop(connection)


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Log an error and go on: the next look comes soon, and nobody else's work is to wait for it."""
    try:
        yield
    except Exception as error:
        raise_if_cancelled()
        if is_outage(error):
            logger.debug(what, error=describe(error))
        else:
            logger.exception(what)
