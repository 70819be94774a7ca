"""The generations of one projection: one follows the log, and a new one is built, compared with it and made live."""

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import structlog

from eventstore.errors import LoopledgerError, TermOverError
from eventstore.fold.generation import SCHEMA, GenerationTables
from eventstore.fold.indexes import create_concurrently, drop_concurrently, obsolete_indexes
from eventstore.fold.projection import Projection
from eventstore.fold.projector import Projector
from eventstore.fold.status import REBUILDING, Diff, ProjectionStatus, Rebuild
from eventstore.postgres.failures import describe, is_outage, is_transient
from eventstore.postgres.leader import Term
from eventstore.rebuild.build import Build, Dependencies
from eventstore.rebuild.pool import BuildFailedError
from eventstore.rebuild.promotion import Promotion
from eventstore.rebuild.queries import QUERIES
from eventstore.tasks import Backoff, cancel_all, in_background, raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Record


logger = structlog.get_logger()

# Seconds between tries to set the live generation up: the first, doubled up to the longest.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0

# Between tries to create an index the pause grows to so many seconds: each may take minutes.
LONGEST_INDEX_PAUSE = 600.0

# Seconds between looks at what another task of this process does.
POLL_SECONDS = 0.05

# Seconds between tries to drop an old generation.
DROP_SECONDS = 10.0


class Lifecycle:
    """The generations of one projection: the live one follows the log, and a new one may take its place."""

    def __init__(self, projection: Projection[Any], deps: Dependencies) -> None:
        self.name = projection.name
        self._projection = projection
        self._deps = deps
        self._live = deps.projector(projection)
        self._switched = asyncio.Event()
        self._rebuilding: asyncio.Task[None] | None = None
        self._stale_checked = False
        self._wanted: str | None = None
        self._term = Term(0)
        # The generation whose build was interrupted by Postgres, or by this process itself.
        self._interrupted: int | None = None
        # When to look for generations that nobody needs any more.
        self._drop_at = 0.0

    async def _set_up_live(self) -> None:
        """Create or adapt the tables of the live generation, however often that fails."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while not self._live.is_set_up:
            try:
                await self._live.set_up()
            except Exception as error:
                raise_if_cancelled()
                if is_outage(error):
                    logger.warning(
                        "projection_waiting",
                        message="A projection is waiting for Postgres.",
                        projection=self.name,
                        error=describe(error),
                    )
                else:
                    logger.error(
                        "projection_not_set_up",
                        message="The tables of a projection are not as they have to be; trying again.",
                        projection=self.name,
                        exc_info=error,
                    )
                    await self._live.record_error(describe(error))
                await asyncio.sleep(backoff.next_pause())

    def begin(self, term: Term) -> None:
        """Rebuild from now on in this term."""
        self._term = term

    async def follow_log(self) -> None:
        """Set the live generation up and run its projector, whichever that is."""
        while True:
            await self._set_up_live()
            async with (
                in_background(self._live.run()) as running,
                in_background(self._create_list_indexes(self._live.tables)),
                in_background(self._switched.wait()) as switched,
            ):
                await asyncio.wait([running, switched], return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                # Even a projector that has stopped for good is kept until another generation takes its place.
                await switched
            self._switched.clear()

    async def _create_list_indexes(self, tables: GenerationTables[Any]) -> None:
        """Create the indexes of lists that tables of older code lack, while their generation is followed."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_INDEX_PAUSE)
        while True:
            try:
                connection = await self._deps.database.connect()
                try:
                    made = await create_concurrently(connection, SCHEMA, tables.list_indexes)
                    for index in obsolete_indexes(self._projection, tables.states.name):
                        await drop_concurrently(connection, SCHEMA, index)
                finally:
                    connection.terminate()
            except Exception as error:  # noqa: BLE001 - whatever it is, the fold goes on without them
                raise_if_cancelled()
                logger.warning(
                    "indexes_missing",
                    message="An index could not be created; until it is there, some lists are slow.",
                    projection=self.name,
                    error=describe(error),
                )
                await asyncio.sleep(backoff.next_pause())
                continue
            if made:
                logger.info(
                    "indexes_created",
                    message="Indexes were created that lists need.",
                    projection=self.name,
                    indexes=made,
                )
            return

    async def update(self, status: ProjectionStatus) -> None:
        """Do what the registry asks for, by its newest status, once the live generation is set up."""
        if not self._live.is_set_up:
            return
        rebuild = status.rebuild
        self._wanted = None if rebuild is None else rebuild.wanted
        await self._follow_live(status.live.generation)
        if not self._stale_checked:
            self._stale_checked = True
            if status.live.stale:
                await self._report_stale()
        if rebuild is None:
            if time.monotonic() >= self._drop_at:
                await self._drop_old()
            return
        if rebuild.wanted == "discard":
            await self.stop()
            await self._discard(rebuild)
        elif rebuild.status != "failed" and (self._rebuilding is None or self._rebuilding.done()):
            self._rebuilding = asyncio.create_task(
                self._rebuild(rebuild), name=f"rebuild-{self.name}"
            )

    async def stop(self) -> None:
        """Interrupt a rebuild; the registry keeps how far it is."""
        if self._rebuilding is not None:
            await cancel_all(self._rebuilding)
            self._rebuilding = None

    async def _report_stale(self) -> None:
        """Log that other code folded the live generation; request a rebuild if the settings say so."""
        if self._deps.rebuild_stale:
            try:
                await self._deps.registry.request_rebuild(self.name, promote=True)
                logger.warning(
                    "stale_projection",
                    message="A projection is stale, and is being rebuilt.",
                    projection=self.name,
                )
            except LoopledgerError as error:
                logger.warning(
                    "stale_projection",
                    message="A projection is stale: it was folded by other code or settings.",
                    projection=self.name,
                    error=str(error),
                )
        else:
            advice = f"run: loopledger rebuild {self.name}"
            logger.warning(
                "stale_projection",
                message="A projection is stale: it was folded by other code or settings.",
                projection=self.name,
                advice=advice,
            )

    async def _follow_live(self, generation: int) -> None:
        """Follow the live generation, if that is another: somebody else switched, or we did and lost the response."""
        if generation != self._live.generation:
            live = self._deps.projector(self._projection)
            await live.set_up()
            self._live = live
            self._switched.set()

    async def _rebuild(self, rebuild: Rebuild) -> None:
        """Take a rebuild from where it is until it is live."""
        build = Build(self._projection, self._deps, self._term, rebuild.generation)
        try:
            row = await self._read_entry(build.generation)
            if row is None or row["status"] not in REBUILDING:
                # It has ended since the registry was read.
                return
            outdated = any(one != build.fingerprint for one in row["fingerprints"])
            # A build by other code is started again; a generation that was live before is taken as it is.
            if row["status"] == "building" or (outdated and row["retired_at"] is None):
                await self._build(build, row, outdated=outdated)
            projector = self._deps.projector(self._projection, build.generation)
            await projector.set_up()
            async with in_background(projector.run()):
                await self._catch_up(projector)
                await self._wait_for_promotion(projector)
                await self._promotion(projector).run()
                await self._drop_old()
        except TermOverError as error:
            logger.info(
                "rebuild_left",
                message="Another process leads now, and goes on with this rebuild.",
                projection=self.name,
                error=str(error),
            )
        except Exception as error:
            raise_if_cancelled()
            if is_transient(error):
                logger.warning(
                    "rebuild_waiting",
                    message="A rebuild is waiting for Postgres.",
                    projection=self.name,
                    error=describe(error),
                )
                return
            logger.error(
                "rebuild_failed",
                message="A rebuild failed.",
                projection=self.name,
                error=describe(error),
                exc_info=error,
            )
            await self._fail(build.generation, error)

    async def _build(self, build: Build, row: "Record", *, outdated: bool) -> None:
        """Build a generation, or start its build again; other code gets attempts of its own."""
        attempts = 0 if outdated else row["attempts"]
        if attempts and self._interrupted == build.generation:
            # That attempt did not end by a fault of its own.
            attempts -= 1
        self._interrupted = None
        try:
            await build.run(restart=row["target"] is not None, attempts=attempts)
        except BaseException as error:
            if is_transient(error) or isinstance(error, asyncio.CancelledError):
                self._interrupted = build.generation
            raise

    async def _read_entry(self, generation: int) -> "Record | None":
        return await self._deps.database.fetchrow(QUERIES["find_generation"], self.name, generation)

    async def _catch_up(self, projector: Projector[Any]) -> None:
        """Wait until a generation has almost reached the head."""
        while projector.lag > self._deps.limits.fold_events:
            if projector.error is not None:
                raise BuildFailedError(problem=projector.error)
            await asyncio.sleep(POLL_SECONDS)

    async def _wait_for_promotion(self, projector: Projector[Any]) -> None:
        """Compare it with the live one, mark it as ready, and wait until it is to be promoted."""
        row = await self._read_entry(projector.generation)
        diff: Diff | None = None
        if row is not None and row["retired_at"] is None:
            diff = await self._promotion(projector).compare()
        await self._deps.database.execute(
            QUERIES["mark_ready"],
            self.name,
            projector.generation,
            None if diff is None else msgspec.json.encode(diff),
            self._term.number,
        )
        await self._term.check(self._deps.database)
        logger.info(
            "rebuild_ready",
            message="A rebuild is ready to be promoted.",
            projection=self.name,
            generation=projector.generation,
        )
        while self._wanted != "promote":  # noqa: ASYNC110 - the registry is polled too
            await asyncio.sleep(POLL_SECONDS)

    def _promotion(self, projector: Projector[Any]) -> Promotion:
        return Promotion(
            self._projection, self._deps, self._term, self._live, projector, self._take_over
        )

    def _take_over(self, projector: Projector[Any]) -> None:
        """Follow the log with this projector from now on: its generation is live."""
        self._live = projector
        self._switched.set()

    async def _drop_old(self) -> None:
        """Drop the generations that were live too long ago; those that somebody is reading, another time."""
        try:
            rows = await self._deps.database.fetch(
                QUERIES["list_surplus_generations"], self.name, self._deps.limits.retired_kept
            )
            for row in rows:
                await self._drop(row["generation"])
            self._drop_at = math.inf
        except Exception as error:  # noqa: BLE001 - it is only room on the disk
            raise_if_cancelled()
            if self._drop_at in {0, math.inf}:
                logger.warning(
                    "generation_not_dropped",
                    message="An old generation could not be dropped; trying again now and then.",
                    projection=self.name,
                    error=describe(error),
                )
            self._drop_at = time.monotonic() + DROP_SECONDS

    async def _drop(self, generation: int) -> None:
        """Drop a generation and delete its entry, unless it is live. Raises LockNotAvailableError if it is read."""
        async with self._term.transaction(self._deps.database) as connection:
            await connection.execute(QUERIES["limit_lock_wait"])
            if await connection.fetchval(QUERIES["delete_generation"], self.name, generation):
                await GenerationTables(self._projection, generation).drop(connection)
                logger.info(
                    "generation_dropped",
                    message="A generation was dropped.",
                    projection=self.name,
                    generation=generation,
                )

    async def _discard(self, rebuild: Rebuild) -> None:
        """Drop a rebuild; a generation that was live before is kept as it was."""
        retired = await self._deps.database.fetchval(
            QUERIES["return_to_retired"], self.name, rebuild.generation, None, self._term.number
        )
        if retired is None:
            with suppress(asyncpg.LockNotAvailableError):
                # Somebody is reading its tables: it is tried again soon.
                await self._drop(rebuild.generation)

    async def _fail(self, generation: int, error: Exception) -> None:
        """Record why a rebuild failed, and drop it; a generation that was live before is kept as it was."""
        text = describe(error)
        if await self._deps.database.fetchval(
            QUERIES["return_to_retired"], self.name, generation, text, self._term.number
        ):
            return
        async with self._term.transaction(self._deps.database) as connection:
            if await connection.fetchval(QUERIES["mark_failed"], self.name, generation, text):
                await GenerationTables(self._projection, generation).drop(connection)
