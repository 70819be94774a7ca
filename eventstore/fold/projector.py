"""The live fold: follow the log, fold each event once, move states and checkpoint in one transaction."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple

import asyncpg
import structlog

from eventstore.errors import (
    FencedError,
    GapError,
    IncompleteError,
    IncompleteReadError,
    StateChangedError,
    SystematicError,
)
from eventstore.fold.failures import NOTHING_FAILING, Failing
from eventstore.fold.fingerprint import fingerprint
from eventstore.fold.folding import FoldBatch, handled_topics
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.queries import QUERIES
from eventstore.fold.slice_folder import SliceFolder
from eventstore.fold.writing import GenerationWriter
from eventstore.log.events import LogSlice
from eventstore.postgres.failures import describe, is_outage, is_refused_value
from eventstore.tasks import Backoff, raise_if_cancelled, run_all

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.fold.registry import Registry
    from eventstore.limits import Limits
    from eventstore.log.head import Head
    from eventstore.log.reader import Reader
    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# Seconds between tries after a failure: the first, doubled up to the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

# Seconds for which a projector at the head of a busy log lets events gather before it folds them: so many times as long
# as the last fold took, within these bounds. One that has been idle folds at once.
MIN_REST_SECONDS = 0.015
REST_FACTOR = 2
MAX_REST_SECONDS = 0.1

# What holds a projection up whose tables are not as this code needs them.
SETTING_UP = "its tables have to be changed first: "

# How many batches are folded while the lock is held, each prepared while the one before it is written. More would save
# little, and keep those waiting who want the lock.
BATCHES_PER_LOCK = 10


class _PreparedBatch(NamedTuple, Generic[State]):
    """A slice of the log and the batch that came of it, not yet written; `more`: a whole batch is waiting behind it."""

    log_slice: LogSlice
    batch: FoldBatch[State]
    more: bool = False


class Projector(Generic[State]):
    """Folds the log into one generation of a projection, for as long as it runs.

    `generation` None is the live one, whichever that is when it is set up. `error` is what holds it up at the moment,
    in one line, or None. `lock` is held while it folds: whoever holds it keeps the generation at its checkpoint.
    """

    def __init__(  # noqa: PLR0913 - by name, all of them
        self,
        projection: Projection[State],
        *,
        sources: Mapping[str, Source],
        database: "Database",
        reader: "Reader",
        head: "Head",
        registry: "Registry",
        limits: "Limits",
        generation: int | None = None,
    ) -> None:
        self.projection = projection
        self.error: str | None = None
        self.checkpoint = 0
        self.lock = asyncio.Lock()
        self.live = generation is None
        self.is_set_up = False
        self._sources = sources
        self._database = database
        self._reader = reader
        self._head = head
        self._registry = registry
        self._limits = limits
        self._set_tables(generation or 1)
        self._topics = handled_topics(projection, sources)
        self._fingerprint = fingerprint(projection, sources)
        self._failing: Failing = NOTHING_FAILING
        self._error_recorded = False
        # Since when the next event has been missing, by the monotonic clock.
        self._gap_since: float | None = None
        self._fingerprint_recorded = False

    @property
    def generation(self) -> int:
        """The generation that it folds."""
        return self.tables.generation

    @property
    def lag(self) -> int:
        """How many events are known to wait for it."""
        return max(0, self._head.position - self.checkpoint)

    def _set_tables(self, generation: int) -> None:
        self.tables = GenerationTables(self.projection, generation)
        self._writer = GenerationWriter(self.tables)
        self._folder = SliceFolder(
            self.projection, self._sources, self._writer, self._database, self._limits
        )

    async def set_up(self) -> None:
        """Create or adapt the tables, and read the checkpoint. Safe when two servers do it at once.

        It waits, however long, while others hold a lock on a table that has to be changed; nobody waits behind it.
        """
        name, version = self.projection.name, self.projection.version
        if self.live:
            await self._database.execute(QUERIES["register_projection"], name, version)
        await self._database.change_tables(
            self._change_tables, f"set up {name}", lambda why: self.record_error(SETTING_UP + why)
        )
        await self.reload()
        self.is_set_up = True

    async def _change_tables(self, connection: "Connection[Record]") -> None:
        """Change what has to be changed; mostly that is nothing, and then no table is locked."""
        if self.live:
            row = await connection.fetchrow(QUERIES["live_generation"], self.projection.name)
            self._set_tables(row["generation"] if row else 1)
            await self.tables.create(connection)
        await self.tables.adapt(connection)
        await self.tables.create_indexes(connection)
        if self.live:
            await self.tables.create_views(connection)

    async def run(self) -> None:
        """Follow the log until cancelled; survives an outage of Postgres and a rival projector."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await self.reload()
                while True:
                    started = loop.time()
                    async with self.lock:
                        folded = await self.fold_next()
                    await self.record_error(self._gap_error(folded))
                    backoff.reset()
                    if not folded:
                        await self._wait_for_more()
                    elif self.lag < self._limits.fold_events:
                        # It is at the head: what comes now is folded together, for a fraction of the price of each.
                        # The busier the machine, the longer: so a fold leaves the better part of it to the deliveries.
                        rest = max(MIN_REST_SECONDS, REST_FACTOR * (loop.time() - started))
                        await asyncio.sleep(min(rest, MAX_REST_SECONDS))
            except FencedError as error:
                raise_if_cancelled()
                logger.info(
                    "rival_projector",
                    message="Another projector has moved this projection on; its state is read again.",
                    projection=self.projection.name,
                    error=str(error),
                )
            except (
                IncompleteError,
                IncompleteReadError,
                StateChangedError,
                SystematicError,
            ) as error:
                # Whatever it wrote from here on could not be trusted: stop, loudly.
                logger.critical(
                    "projection_stopped",
                    message="A projection stopped, because what it would write cannot be trusted.",
                    projection=self.projection.name,
                    error=str(error),
                )
                await self.record_error(str(error))
                return
            except Exception as error:
                raise_if_cancelled()
                if is_outage(error):
                    logger.warning(
                        "projection_waiting",
                        message="A projection is waiting for Postgres.",
                        projection=self.projection.name,
                        error=describe(error),
                    )
                else:
                    logger.error(
                        "projection_failed",
                        message="A projection failed and tries again.",
                        projection=self.projection.name,
                        exc_info=error,
                    )
                    await self.record_error(describe(error))
            await asyncio.sleep(backoff.next_pause())

    async def fold_next(self, limit: int | None = None) -> int:
        """Fold what follows in the log, a few batches of it, at most `limit` events; returns how many there were.

        While one batch is written, the next is read and folded already, on the states that this one leaves.
        """
        start = self.checkpoint
        end = None if limit is None else start + limit
        self._folder.evict_states()
        writing: _PreparedBatch[State] | None = None
        try:
            prepared = await self._prepare(start, end, self._failing)
            for left in reversed(range(BATCHES_PER_LOCK)):
                if prepared is None:
                    break
                writing = prepared
                if writing.more and left:
                    prepared, _ = await run_all(
                        self._prepare_ahead(writing.batch, end), self._write(writing)
                    )
                else:
                    # What is prepared is written, or the states in memory would be ahead of the table.
                    prepared = None
                    await self._write(writing)
        except BaseException as error:  # noqa: BLE001 - it is raised again, unless it can be recovered from
            await self._recover(error, writing and writing.log_slice)
        return self.checkpoint - start

    async def fold_up_to(self, position: int) -> None:
        """Fold up to exactly this position, unless it is beyond that already or the log ends before it."""
        while self.checkpoint < position and await self.fold_next(position - self.checkpoint):
            pass

    async def reload(self) -> None:
        """Read the checkpoint from the registry."""
        self._folder.forget_states()
        self.checkpoint, self._failing = await self._registry.read_checkpoint(
            self.projection.name, self.generation
        )

    async def _wait_for_more(self) -> None:
        if self._head.position > self.checkpoint:
            # The log reaches further, but the next event is missing: a gap, which only time will fill.
            await asyncio.sleep(FIRST_PAUSE if self.error is None else LONGEST_PAUSE)
        await self._head.wait_beyond(self.checkpoint)

    def _gap_error(self, folded: int) -> str | None:
        """What holds it up if it found nothing to fold where the head says that there is, and for too long."""
        now = time.monotonic()
        if folded or self._head.position <= self.checkpoint:
            self._gap_since = None
            return None
        if self._gap_since is None:
            self._gap_since = now
        if now - self._gap_since < self._limits.gap_seconds:
            return None
        if self.error is None:
            error = GapError(
                projection=self.projection.name,
                checkpoint=self.checkpoint,
                missing=self.checkpoint + 1,
                head=self._head.position,
                seconds=self._limits.gap_seconds,
            )
            logger.critical(
                "log_gap",
                message="An event is missing that the head of the log says is there.",
                projection=self.projection.name,
                error=str(error),
            )
            return str(error)
        return self.error

    async def record_error(self, error: str | None) -> None:
        """Keep `error`, and show it to every process through the registry."""
        if error == self.error and self._error_recorded:
            return
        self.error = error
        try:
            await self._registry.record_error(self.projection.name, self.generation, error)
            self._error_recorded = True
        except Exception as failure:  # noqa: BLE001 - whatever it is
            # It has been logged; to record it is not worth stopping for.
            raise_if_cancelled()
            logger.warning(
                "error_not_recorded",
                message="The error of a projection could not be recorded in the registry.",
                projection=self.projection.name,
                error=describe(failure),
            )
            self._error_recorded = False

    async def _record_fingerprint(self) -> None:
        """Record, before the first fold, which code folds here."""
        if not self._fingerprint_recorded:
            await self._registry.record_fingerprint(
                self.projection.name, self.generation, self._fingerprint
            )
            self._fingerprint_recorded = True

    async def _prepare(
        self, after: int, end: int | None, failing: Failing
    ) -> _PreparedBatch[State] | None:
        """Read the next slice of the log and fold it in memory; None if there is none."""
        limit = self._limits.fold_events
        limit = limit if end is None else min(end - after, limit)
        log_slice = await self._reader.read_slice(after, limit, self._topics)
        if log_slice.through == log_slice.after:
            return None
        batch = await self._folder.fold(log_slice, failing)
        more = self._head.position - batch.checkpoint >= self._limits.fold_events
        return _PreparedBatch(log_slice, batch, more)

    async def _prepare_ahead(
        self, batch: FoldBatch[State], end: int | None
    ) -> _PreparedBatch[State] | None:
        """Prepare what follows `batch` while that is written. What fails here fails again, and is raised, next time."""
        if batch.checkpoint == end:
            return None
        try:
            return await self._prepare(batch.checkpoint, end, batch.failing)
        except IncompleteReadError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is
            raise_if_cancelled()
            logger.debug(
                "fold_ahead_failed",
                message="The next batch could not be folded ahead; it is folded in its turn.",
                projection=self.projection.name,
                error=describe(error),
            )
            self._folder.forget_states()
            return None

    async def _write(self, prepared: _PreparedBatch[State]) -> None:
        """Write a batch.

        Raises FencedError, StateChangedError, IncompleteError, and whatever Postgres finds wrong with it.
        """
        batch = prepared.batch
        if prepared.log_slice.events:
            await self._record_fingerprint()
        try:
            # What came before is written by now, so the timelines of late facts are whole.
            batch = await self._writer.settle(self._database, batch)
            moved = await self._writer.write_batch(self._database, batch)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name != "complete":
                raise
            raise IncompleteError(projection=self.projection.name) from error
        except StateChangedError as error:
            if not self._database.distributed:
                raise
            # What a projector that died had committed may become visible on one machine later than on another. The row
            # was waited for; it is read again.
            raise FencedError(projection=self.projection.name, checkpoint=batch.after) from error
        if not moved:
            raise FencedError(projection=self.projection.name, checkpoint=batch.after)
        self.checkpoint, self._failing = batch.checkpoint, batch.failing
        if self.live:
            self._registry.on_checkpoint(self.projection.name, batch.checkpoint)
        if batch.quarantined:
            logger.warning(
                "events_quarantined",
                message="Events could not be folded and were put in quarantine.",
                projection=self.projection.name,
                count=len(batch.quarantined),
                first_position=batch.quarantined[0][0],
            )

    async def _recover(self, error: BaseException, log_slice: LogSlice | None) -> None:
        """Find the events at fault if the database refused what came of `log_slice`, fold the others; else raise."""
        # They may be ahead of the table.
        self._folder.forget_states()
        raise_if_cancelled()
        if log_slice is None or not log_slice.events or not is_refused_value(error):
            raise error
        if len(log_slice.events) == 1:
            batch = await self._folder.fold(log_slice, self._failing, refused=describe(error))
            await self._write(_PreparedBatch(log_slice, batch))
            return
        for half in log_slice.split(len(log_slice.events) // 2):
            try:
                batch = await self._folder.fold(half, self._failing)
                await self._write(_PreparedBatch(half, batch))
            except BaseException as half_error:  # noqa: BLE001 - as above
                await self._recover(half_error, half)
