"""Builds a new generation beside the live one: from the first event, by several processes, indexes last.

A build that was interrupted is started again under the next generation number: a builder process that could not be
killed must not write into the tables of the next attempt.
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
from eventstore.postgres.leader import Term
from eventstore.rebuild.messages import BuildCounts, Job
from eventstore.rebuild.pool import BuilderDiedError, BuilderPool, BuildFailedError
from eventstore.rebuild.queries import QUERIES
from eventstore.tasks import in_background, raise_if_cancelled, run_all

if TYPE_CHECKING:
    from eventstore.fold.registry import Registry
    from eventstore.limits import Limits
    from eventstore.log.head import Head
    from eventstore.log.reader import Reader
    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# Seconds between reports of a build's progress to the registry, of which one in so many is logged, too.
REPORT_SECONDS = 0.5
REPORTS_PER_LOG_LINE = 10

# How many attempts a build has, whoever conducts them, and the seconds between them. One that Postgres interrupted does
# not count.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0

# To count a long log and to index many states take their time: no limit but a day.
STATEMENT_SECONDS = 86_400.0

# Memory for sorting, while an index is created.
INDEX_MEMORY = "256MB"

# The problem of a BuildFailedError: the registry is not as it was.
CHANGED_BY_OTHERS = "another process changed the generations at the same time"


class Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to follow the log and to rebuild; `rebuild_stale`: without being asked."""

    sources: Mapping[str, Source]
    database: "Database"
    reader: "Reader"
    head: "Head"
    registry: "Registry"
    limits: "Limits"
    builders: BuilderPool
    rebuild_stale: bool = False

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
    """A new generation of a projection, while it is built. Its number changes when it is started again."""

    def __init__(
        self, projection: Projection[Any], deps: Dependencies, term: Term, generation: int
    ) -> None:
        self.generation = generation
        self.name = projection.name
        self.fingerprint = fingerprint(projection, deps.sources)
        self._projection = projection
        self._deps = deps
        self._term = term

    async def run(self, *, restart: bool, attempts: int = 0) -> None:
        """Build it with its indexes; `restart` if a build of it was interrupted, after so many `attempts`.

        Raises BuildFailedError, TermOverError.
        """
        if attempts >= ATTEMPTS:
            raise BuildFailedError(
                problem=f"{attempts} attempts were interrupted; whatever ended the process that conducts it"
                " may do so again"
            )
        for attempt in range(attempts + 1, ATTEMPTS + 1):
            if restart:
                await self._renumber()
            job = await self._start(attempt)
            try:
                await self._fill(job)
            except (BuilderDiedError, asyncpg.PostgresError, OSError) as error:
                raise_if_cancelled()
                # Whoever leads now may have dropped the tables.
                await self._term.check(self._deps.database)
                if is_transient(error) or attempt == ATTEMPTS:
                    raise
                logger.warning(
                    "rebuild_restarted",
                    message="A rebuild was interrupted and is restarted.",
                    projection=self.name,
                    attempt=attempt,
                    error=describe(error),
                )
                restart = True
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _start(self, attempt: int) -> Job:
        """Create the tables, and fix up to which position they are built."""
        tables = GenerationTables(self._projection, self.generation)
        async with self._deps.database.transaction() as connection:
            await self._term.hold(connection)
            target: int = await read_head(connection)
            await tables.create(connection)
            started = await connection.fetchval(
                QUERIES["start_build"],
                self.name,
                self.generation,
                self._projection.version,
                self.fingerprint,
                target,
                attempt,
            )
            if started is None:
                raise BuildFailedError(problem=CHANGED_BY_OTHERS)
            streams: int = await connection.fetchval(QUERIES["estimate_streams"], self.name)
        return Job(projection=self.name, generation=self.generation, target=target, streams=streams)

    async def _renumber(self) -> None:
        """Start again under the next number."""
        name, generation = self.name, self.generation
        async with self._deps.database.transaction() as connection:
            await self._term.hold(connection)
            await connection.execute(QUERIES["delete_quarantine"], name, generation)
            await connection.execute(QUERIES["delete_refiled"], name, generation)
            if not await connection.fetchval(QUERIES["renumber_generation"], name, generation):
                raise BuildFailedError(problem=CHANGED_BY_OTHERS)
            await GenerationTables(self._projection, generation).drop(connection)
        self.generation += 1

    async def _fill(self, job: Job) -> None:
        """Fold the log up to the target into the tables, index them, and enter the counts."""
        events_done = 0

        def on_progress(events: int) -> None:
            nonlocal events_done
            events_done = events

        async with in_background(self._report_progress(job, lambda: events_done)):
            counts, ignored = await run_all(
                self._deps.builders.build_ranges(job, on_progress),
                self._count_ignored(job.target),
            )
            self._check_failures(counts)
            await self._create_indexes(job)
            if counts.left_out:
                logger.info(
                    "rebuild_refiling",
                    message="Things whose events are on record in other streams are folded again.",
                    projection=self.name,
                    generation=job.generation,
                    events=counts.left_out,
                )
                counts += await self._deps.builders.build_second_pass(job)
                self._check_failures(counts)
            await self._analyze(job)
        try:
            await self._deps.database.execute(
                QUERIES["finish_build"],
                self.name,
                job.generation,
                counts.folded,
                ignored,
                counts.quarantined,
                self._term.number,
            )
        except asyncpg.CheckViolationError as error:
            raise IncompleteError(projection=self.name) from error
        await self._term.check(self._deps.database)

    def _check_failures(self, counts: BuildCounts) -> None:
        if not counts.folded and counts.quarantined >= self._deps.limits.failures_in_a_row:
            raise SystematicError(
                projection=self.name,
                checkpoint=0,
                topic="all topics",
                count=counts.quarantined,
                error="see the quarantine",
            )

    async def _report_progress(self, job: Job, events_done: Callable[[], int]) -> None:
        """Report the progress to the registry, and now and then to the log."""
        for count in itertools.count(1):
            await asyncio.sleep(REPORT_SECONDS)
            with suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
                await self._deps.database.execute(
                    QUERIES["record_progress"],
                    self.name,
                    job.generation,
                    events_done(),
                    self._term.number,
                )
            if count % REPORTS_PER_LOG_LINE == 0:
                logger.info(
                    "rebuild_progress",
                    message="A rebuild is building a new generation.",
                    projection=self.name,
                    generation=job.generation,
                    percent=round(100 * events_done() / max(job.target, 1), 1),
                )

    async def _count_ignored(self, target: int) -> int:
        """Count what the builders leave out, apart from them: that the sum is the target proves that none is lost."""
        topics = sorted(handled_topics(self._projection, self._deps.sources))
        connection = await self._deps.database.connect()
        try:
            ignored: int = await connection.fetchval(
                QUERIES["count_ignored"], target, topics, timeout=STATEMENT_SECONDS
            )
            return ignored
        finally:
            connection.terminate()

    async def _create_indexes(self, job: Job) -> None:
        """Create the indexes."""
        tables = GenerationTables(self._projection, job.generation)
        await self._execute_all(tables.index_statements())

    async def _analyze(self, job: Job) -> None:
        """Have Postgres gather its statistics."""
        tables = GenerationTables(self._projection, job.generation)
        await self._execute_all(
            [QUERIES["analyze_table"].format(**each.placeholders) for each in tables.tables]
        )

    async def _execute_all(self, statements: list[str]) -> None:
        """Execute all of these, two at a time."""
        left = list(statements)

        async def work() -> None:
            connection = await self._deps.database.connect()
            try:
                await connection.execute(QUERIES["set_index_memory"], INDEX_MEMORY)
                while left:
                    await connection.execute(left.pop(0), timeout=STATEMENT_SECONDS)
            finally:
                connection.terminate()

        await run_all(work(), work())
