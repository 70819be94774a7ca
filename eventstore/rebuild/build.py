"""Build a generation beside the live one: from the first event, by several processes, indexes last.

A build that is broken off is begun again under the next number: what is left of a builder that nobody could end must
not write into the tables of the next attempt.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import structlog

from eventstore.errors import IncompleteError, SystematicError
from eventstore.fold.fingerprint import fingerprint
from eventstore.fold.folding import handled_topics
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection, Source
from eventstore.fold.projector import Projector
from eventstore.log.head import read_head
from eventstore.postgres.failures import describe, is_transient
from eventstore.rebuild.pool import BuilderDiedError, BuilderPool, BuildFailedError, Job
from eventstore.rebuild.queries import QUERIES
from eventstore.tasks import in_background, raise_if_cancelled, run_all

if TYPE_CHECKING:
    from eventstore.fold.registry import Registry
    from eventstore.limits import Limits
    from eventstore.log.head import Head
    from eventstore.log.reader import Reader
    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# Seconds between words of how far a build is, and so many of them between two in the log.
REPORT_SECONDS = 0.5
REPORTS_A_WORD = 10

# How often a build is begun again when a builder died, and how soon.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0

# An index on many states takes its time: no limit but a day.
LONG_SECONDS = 86_400.0

# Memory for sorting, while an index is made.
INDEX_MEMORY = "256MB"

MEANWHILE = "another process changed the generations meanwhile"


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """What generations are made with."""

    sources: Mapping[str, Source]
    database: "Database"
    reader: "Reader"
    head: "Head"
    registry: "Registry"
    limits: "Limits"
    builders: BuilderPool
    auto: bool = False

    def projector(
        self, projection: Projection[Any], generation: int | None = None
    ) -> Projector[Any]:
        """Make the projector of one generation; None is the live one."""
        return Projector(
            projection,
            sources=self.sources,
            database=self.database,
            reader=self.reader,
            head=self.head,
            registry=self.registry,
            limits=self.limits,
            generation=generation,
        )


class Build:
    """A new generation of a projection, while it is built. Its number changes when it is begun again."""

    def __init__(self, projection: Projection[Any], engine: Engine, generation: int) -> None:
        self.generation = generation
        self.name = projection.name
        self.fingerprint = fingerprint(projection, engine.sources)
        self._projection = projection
        self._engine = engine

    async def build(self, *, again: bool) -> None:
        """Build it with its indexes; `again` if somebody has begun before. Raises BuildFailedError."""
        for attempt in range(ATTEMPTS):
            if again:
                # Under a new number: what is left of a builder that nobody could end must not write there.
                await self._begin_again()
            job = await self._prepare()
            try:
                await self._build_once(job)
            except (BuilderDiedError, asyncpg.PostgresError, OSError) as error:
                raise_if_cancelled()
                if is_transient(error) or attempt == ATTEMPTS - 1:
                    raise
                logger.warning("building again", projection=self.name, error=describe(error))
                again = True
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _prepare(self) -> Job:
        tables = GenerationTables(self._projection, self.generation)
        async with self._engine.database.transaction() as connection:
            target: int = await read_head(connection)
            await tables.create(connection)
            begun = await connection.fetchval(
                QUERIES["start_build"],
                self.name,
                self.generation,
                self._projection.version,
                self.fingerprint,
                target,
            )
            if begun is None:
                raise BuildFailedError(problem=MEANWHILE)
            streams: int = await connection.fetchval(QUERIES["estimate_streams"], self.name)
        return Job(projection=self.name, generation=self.generation, target=target, streams=streams)

    async def _begin_again(self) -> None:
        name, generation = self.name, self.generation
        async with self._engine.database.transaction() as connection:
            await connection.execute(QUERIES["delete_quarantine"], name, generation)
            if not await connection.fetchval(QUERIES["renumber_generation"], name, generation):
                raise BuildFailedError(problem=MEANWHILE)
            await GenerationTables(self._projection, generation).drop(connection)
        self.generation += 1

    async def _build_once(self, job: Job) -> None:
        done = 0

        def progress(built: int) -> None:
            nonlocal done
            done = built

        async with in_background(self._report(job, lambda: done)):
            built, ignored = await run_all(
                self._engine.builders.build(job, progress), self._count_ignored(job.target)
            )
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
                QUERIES["finish_build"], self.name, job.generation, *counts
            )
        except asyncpg.CheckViolationError as error:
            raise IncompleteError(projection=self.name) from error

    async def _report(self, job: Job, done: Callable[[], int]) -> None:
        """Say how far it is: in the registry often, in the log now and then."""
        for count in itertools.count(1):
            await asyncio.sleep(REPORT_SECONDS)
            with suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
                await self._engine.database.execute(
                    QUERIES["record_progress"], self.name, job.generation, done()
                )
            if count % REPORTS_A_WORD == 0:
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
        """Make the indexes, then have Postgres look at what it holds."""
        tables = GenerationTables(self._projection, job.generation)
        await self._execute_all(tables.index_statements())
        await self._execute_all([f"ANALYZE {table.name}" for table in tables.tables])

    async def _execute_all(self, statements: list[str]) -> None:
        """Execute all of these, two at a time."""
        left = list(statements)

        async def work() -> None:
            connection = await self._engine.database.connect()
            try:
                await connection.execute(QUERIES["set_index_memory"], INDEX_MEMORY)
                while left:
                    await connection.execute(left.pop(0), timeout=LONG_SECONDS)
            finally:
                connection.terminate()

        await run_all(work(), work())
