"""Generations of the projections: the live ones follow the log, and a new one is built, compared and switched to.

The registry says what is to be done, and how far it is; whoever asks writes there. One process at a time, the one that
projects, does it. Whatever kills it, the next one finds in the registry where to go on, or to begin again.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import structlog

from eventstore.builders import BuilderDiedError, Builders, BuildFailedError, Job
from eventstore.diff import TEMPLATES as DIFF_TEMPLATES
from eventstore.diff import Comparison, Diff
from eventstore.errors import (
    IncompleteError,
    LoopledgerError,
    SystematicError,
    describe,
    heed_cancellation,
    is_outage,
)
from eventstore.fingerprint import fingerprint
from eventstore.projection import Projection, Source, handled_topics
from eventstore.projector import Projector
from eventstore.queries import QUERIES
from eventstore.registry import Generations, Rebuild
from eventstore.tables import GenerationTables

if TYPE_CHECKING:
    from eventstore.database import Database
    from eventstore.limits import Limits
    from eventstore.log import Log
    from eventstore.registry import Registry

logger = structlog.get_logger()

# Seconds between looks at what the registry asks for, and between words of how far a rebuild is.
LOOK_SECONDS = 0.5

# So many looks between words in the log.
LOOKS_A_WORD = 10

# How often a build is begun again when a builder died, and how soon.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0

# An index on many states takes its time: no limit but a day.
LONG_SECONDS = 86_400.0

# Memory for sorting, while an index is made.
INDEX_MEMORY = "256MB"


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What generations are made with."""

    sources: Mapping[str, Source]
    database: "Database"
    log: "Log"
    registry: "Registry"
    limits: "Limits"
    builders: Builders
    auto: bool = False

    def projector(
        self, projection: Projection[Any], generation: int | None = None
    ) -> Projector[Any]:
        """Make the projector of one generation; None is the live one."""
        return Projector(
            projection,
            sources=self.sources,
            database=self.database,
            log=self.log,
            registry=self.registry,
            limits=self.limits,
            generation=generation,
        )


class Conductor:
    """Has the live generations follow the log, and does the rebuilds that are asked for."""

    def __init__(self, projections: Sequence[Projection[Any]], engine: Engine) -> None:
        self._engine = engine
        self._keepers = {one.name: Keeper(one, engine) for one in projections}

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
            first = True
            while True:
                try:
                    found = await self._engine.registry.generations()
                    for name, keeper in self._keepers.items():
                        if first:
                            await keeper.notice(stale=found[name].live.stale)
                        await keeper.heed(found[name])
                    first = False
                except Exception as error:
                    heed_cancellation()
                    if not is_outage(error):
                        logger.exception("could not look for rebuilds")
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for keeper in self._keepers.values():
                await keeper.stop()


class Keeper:
    """Keeps the generations of one projection: the live one, and the one that may take its place."""

    def __init__(self, projection: Projection[Any], engine: Engine) -> None:
        self.name = projection.name
        self._projection = projection
        self._engine = engine
        self._live = engine.projector(projection)
        self._switched = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._building = 0
        self._wanted: str | None = None
        self._fingerprint = fingerprint(projection, engine.sources)

    async def set_up(self) -> None:
        """See to the tables of the live generation."""
        await self._live.set_up()

    async def follow(self) -> None:
        """Run the live projector, whichever that is."""
        while True:
            live = self._live
            running = asyncio.ensure_future(live.run())
            switched = asyncio.ensure_future(self._switched.wait())
            try:
                # A projector that stopped for good is waited out too: another generation may take its place.
                await switched
            finally:
                for task in (running, switched):
                    task.cancel()
                await asyncio.gather(running, switched, return_exceptions=True)
            self._switched.clear()

    async def notice(self, *, stale: bool) -> None:
        """Tell, at the start, that other code folded the live generation; rebuild it if that is to be done unasked."""
        if not stale:
            return
        if self._engine.auto:
            try:
                await self._engine.registry.ask_rebuild(self.name, promote=True)
                logger.warning("a projection is stale; rebuilding it", projection=self.name)
            except LoopledgerError as error:
                logger.warning("a projection is stale", projection=self.name, error=str(error))
        else:
            advice = f"run: loopledger rebuild {self.name}"
            logger.warning("a projection is stale", projection=self.name, advice=advice)

    async def heed(self, generations: Generations) -> None:
        """Do what the registry asks for."""
        rebuild = generations.rebuild
        self._wanted = None if rebuild is None else rebuild.wanted
        if rebuild is None:
            await self._find_live(generations.live.generation)
        elif rebuild.wanted == "discard":
            await self.stop()
            await self._discard(rebuild)
        elif rebuild.status != "failed" and (self._working is None or self._working.done()):
            self._building = rebuild.generation
            self._working = asyncio.create_task(self._work(rebuild), name=f"rebuild-{self.name}")

    async def _find_live(self, generation: int) -> None:
        """Follow the live generation, if that is another: the connection was lost while it was switched to."""
        if generation != self._live.tables.generation:
            live = self._engine.projector(self._projection)
            await live.set_up()
            self._live = live
            self._switched.set()

    async def stop(self) -> None:
        """Stop working at a rebuild; the registry keeps how far it is."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            self._working = None

    async def _work(self, rebuild: Rebuild) -> None:
        """Take a rebuild from where it is to where it is live."""
        try:
            if rebuild.status == "building" or await self._is_outdated(rebuild):
                await self._build(rebuild)
            projector = self._engine.projector(self._projection, self._building)
            await projector.set_up()
            async with alongside(projector.run()):
                await self._catch_up(projector)
                await self._wait_for_promotion(projector)
                await self._promote(projector)
        except Exception as error:
            heed_cancellation()
            if is_outage(error):
                logger.warning("a rebuild waits for Postgres", error=describe(error))
                return
            logger.error("a rebuild failed", projection=self.name, exc_info=error)
            await self._fail(self._building, error)

    async def _is_outdated(self, rebuild: Rebuild) -> bool:
        """Say whether a rebuild was begun by other code than this; what was live once is taken as it is."""
        row = await self._engine.database.fetchrow(
            QUERIES["signatures"], self.name, rebuild.generation
        )
        return (
            row is not None
            and row["retired_at"] is None
            and any(one != self._fingerprint for one in row["fingerprints"])
        )

    async def _build(self, rebuild: Rebuild) -> None:
        """Build a generation with its indexes. Raises BuildFailedError."""
        again = rebuild.target is not None
        for attempt in range(ATTEMPTS):
            if again:
                # Under a new number: what is left of a builder that nobody could end must not write there.
                await self._begin_again(self._building)
                self._building += 1
            job = await self._prepare(self._building)
            try:
                await self._build_once(job)
            except (BuilderDiedError, asyncpg.PostgresError, OSError) as error:
                heed_cancellation()
                if is_outage(error) or attempt == ATTEMPTS - 1:
                    raise
                logger.warning("building again", projection=self.name, error=describe(error))
                again = True
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _prepare(self, generation: int) -> Job:
        tables = GenerationTables(self._projection, generation)
        async with self._engine.database.transaction() as connection:
            target: int = await connection.fetchval(QUERIES["read_head"])
            await tables.create(connection)
            await connection.execute(
                QUERIES["begin_build"],
                self.name,
                generation,
                self._projection.version,
                self._fingerprint,
                target,
            )
        return Job(projection=self.name, generation=generation, target=target)

    async def _begin_again(self, generation: int) -> None:
        async with self._engine.database.transaction() as connection:
            await GenerationTables(self._projection, generation).drop(connection)
            await connection.execute(QUERIES["forget_quarantine"], self.name, generation)
            await connection.execute(QUERIES["renumber"], self.name, generation)

    async def _build_once(self, job: Job) -> None:
        done = 0

        def progress(built: int) -> None:
            nonlocal done
            done = built

        async with alongside(self._report(job, lambda: done)):
            counting = asyncio.create_task(self._count_ignored(job.target))
            try:
                built = await self._engine.builders.build(job, progress)
                ignored = await counting
            finally:
                counting.cancel()
                await asyncio.gather(counting, return_exceptions=True)
            if not built.folded and built.quarantined >= self._engine.limits.failures_in_a_row:
                raise SystematicError(
                    projection=self.name,
                    checkpoint=0,
                    count=built.quarantined,
                    error="see the quarantine",
                )
            await self._index(job)
        counts = built.folded, ignored, built.quarantined
        try:
            await self._engine.database.execute(
                QUERIES["end_build"], self.name, job.generation, *counts
            )
        except asyncpg.CheckViolationError as error:
            raise IncompleteError(projection=self.name) from error

    async def _report(self, job: Job, done: Callable[[], int]) -> None:
        """Say how far it is: in the registry often, in the log now and then."""
        for count in itertools.count(1):
            await asyncio.sleep(LOOK_SECONDS)
            with suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
                await self._engine.database.execute(
                    QUERIES["note_built"], self.name, job.generation, done()
                )
            if count % LOOKS_A_WORD == 0:
                percent = round(100 * done() / max(job.target, 1), 1)
                logger.info(
                    "rebuilding",
                    projection=self.name,
                    generation=job.generation,
                    percent=percent,
                )

    async def _count_ignored(self, target: int) -> int:
        """Count what the builders leave out, on its own: that both make up the whole is the proof that none is lost."""
        topics = sorted(handled_topics(self._projection, self._engine.sources))
        connection = await self._engine.database.connect()
        try:
            ignored: int = await connection.fetchval(
                QUERIES["count_ignored"], target, topics, timeout=LONG_SECONDS
            )
            return ignored
        finally:
            connection.terminate()

    async def _index(self, job: Job) -> None:
        """Make the indexes, two at a time."""
        tables = GenerationTables(self._projection, job.generation)
        left = tables.index_statements()

        async def work() -> None:
            connection = await self._engine.database.connect()
            try:
                await connection.execute(QUERIES["sort_in_memory"], INDEX_MEMORY)
                while left:
                    await connection.execute(left.pop(0), timeout=LONG_SECONDS)
            finally:
                connection.terminate()

        await asyncio.gather(work(), work())
        connection = await self._engine.database.connect()
        try:
            for table in tables.tables:
                await connection.execute(f"ANALYZE {table.words['table']}", timeout=LONG_SECONDS)
        finally:
            connection.terminate()

    async def _catch_up(self, projector: Projector[Any]) -> None:
        """Wait until a generation is about where the live one is."""
        while projector.lag > self._engine.limits.fold_events:
            if projector.error is not None:
                raise BuildFailedError(problem=projector.error)
            await asyncio.sleep(LOOK_SECONDS / 10)

    async def _wait_for_promotion(self, projector: Projector[Any]) -> None:
        """Compare, say that it is ready, and wait for the word."""
        row = await self._engine.database.fetchrow(
            QUERIES["signatures"], self.name, projector.tables.generation
        )
        diff: Diff | None = None
        if row is not None and row["retired_at"] is None:
            diff = await self._compare(projector)
        await self._engine.database.execute(
            QUERIES["note_ready"],
            self.name,
            projector.tables.generation,
            None if diff is None else msgspec.json.encode(diff),
        )
        logger.info(
            "a rebuild is ready", projection=self.name, generation=projector.tables.generation
        )
        while self._wanted != "promote":  # noqa: ASYNC110 - the registry is looked at in intervals too
            await asyncio.sleep(LOOK_SECONDS / 10)

    @asynccontextmanager
    async def _level(self, projector: Projector[Any]) -> AsyncIterator[None]:
        """Hold both generations at one position, unless the live one cannot go on."""
        async with self._live.turn, projector.turn:
            await projector.fold_up_to(self._live.checkpoint)
            try:
                await self._live.fold_up_to(projector.checkpoint)
            except LoopledgerError as error:
                logger.warning("the live generation stands still", error=str(error))
            yield

    async def _compare(self, projector: Projector[Any]) -> Diff:
        generation = projector.tables.generation
        connection = await self._engine.database.connect()
        try:
            snapshot = connection.transaction(isolation="repeatable_read", readonly=True)
            await snapshot.start()
            async with self._level(projector):
                # The snapshot is taken with this; what is folded from here on does not show in it.
                row = await connection.fetchrow(DIFF_TEMPLATES["snapshot"], self.name, generation)
            if row is None:
                raise BuildFailedError(problem="it is no longer registered")
            comparison = Comparison(
                self._projection, self._engine.sources, row["live"], generation, connection
            )
            return await comparison.diff(
                row["position"], row["live_position"], self._engine.log.stream
            )
        finally:
            connection.terminate()

    async def _promote(self, projector: Projector[Any]) -> None:
        """Make a generation live, all at once; it is not behind the one that was."""
        tables = projector.tables
        async with self._level(projector):
            async with self._engine.database.transaction() as connection:
                await connection.execute(QUERIES["wait_for_disk"])
                await connection.execute(QUERIES["lock_schema"])
                moved = await connection.fetchval(
                    QUERIES["switch"], self.name, self._live.tables.generation, tables.generation
                )
                if moved is None:
                    raise BuildFailedError(
                        problem="another process changed the generations meanwhile"
                    )
                await connection.execute(QUERIES["switch_on"], self.name, tables.generation)
                await tables.show(connection)
            self._live.live, projector.live = False, True
            self._live = projector
        self._switched.set()
        logger.info("promoted", projection=self.name, generation=tables.generation)
        await self._prune()

    async def _prune(self) -> None:
        """Drop the generations that were live too long ago."""
        rows = await self._engine.database.fetch(
            QUERIES["too_many_retired"], self.name, self._engine.limits.retired_kept
        )
        for row in rows:
            await self._forget(row["generation"])

    async def _forget(self, generation: int) -> None:
        async with self._engine.database.transaction() as connection:
            await GenerationTables(self._projection, generation).drop(connection)
            await connection.execute(QUERIES["forget_generation"], self.name, generation)
        logger.info("dropped a generation", projection=self.name, generation=generation)

    async def _discard(self, rebuild: Rebuild) -> None:
        retired = await self._engine.database.fetchval(
            QUERIES["retire_again"], self.name, rebuild.generation, None
        )
        if retired is None:
            await self._forget(rebuild.generation)

    async def _fail(self, generation: int, error: Exception) -> None:
        """Keep the reason; what was live once stays as it was, of the rest only the entry stays."""
        text = describe(error)
        if await self._engine.database.fetchval(
            QUERIES["retire_again"], self.name, generation, text
        ):
            return
        async with self._engine.database.transaction() as connection:
            await GenerationTables(self._projection, generation).drop(connection)
            await connection.execute(QUERIES["fail_build"], self.name, generation, text)


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do `work` meanwhile."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
