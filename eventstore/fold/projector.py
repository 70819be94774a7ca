"""The live fold: follow the log, fold each event once, move states and checkpoint in one transaction."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple

import asyncpg
import structlog

from eventstore.errors import FencedError, IncompleteError, IncompleteReadError, SystematicError
from eventstore.fold.fingerprint import fingerprint
from eventstore.fold.folding import Accumulator, FoldBatch, handled_topics
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.queries import QUERIES
from eventstore.log.events import LogSlice
from eventstore.postgres.failures import describe, is_outage, is_refused_value
from eventstore.postgres.schema import lock_schema
from eventstore.tasks import Backoff, raise_if_cancelled, run_all

if TYPE_CHECKING:
    from eventstore.fold.registry import Registry
    from eventstore.limits import Limits
    from eventstore.log.head import Head
    from eventstore.log.reader import Reader
    from eventstore.postgres.database import Database

logger = structlog.get_logger()

# Seconds between tries after a failure: the first, doubled up to the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

# Seconds that a projector at the head of a busy log lets events gather: at least so many, and at least so many times as
# long as the last fold took, but no more than that. One that has been idle folds at once.
REST_SECONDS = 0.015
REST_SHARE = 2
LONGEST_REST = 0.1

# How many stretches of the log are folded in one turn, each prepared while the one before it is written. More would
# save little, and keep those waiting who want the turn.
STRETCHES = 10


class _Work(NamedTuple, Generic[State]):
    """A stretch of the log and what it does to the projection, not yet written; `more`: as much waits behind it."""

    tail: LogSlice
    stretch: FoldBatch[State]
    more: bool = False


class Projector(Generic[State]):
    """Folds the log into one generation of a projection, for as long as it runs.

    `generation` None is the live one, whichever that is when it is set up. `error` is what stops it at the moment, in
    one line, or None. `turn` is held while it folds: whoever holds it instead finds it standing still.
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
        self.turn = asyncio.Lock()
        self.live = generation is None
        self.tables = GenerationTables(projection, generation or 1)
        self._sources = sources
        self._database = database
        self._reader = reader
        self._head = head
        self._registry = registry
        self._limits = limits
        self._topics = handled_topics(projection, sources)
        self._fingerprint = fingerprint(projection, sources)
        self._failing = 0
        # States as they are in the table, None where there is none: nobody else writes there, or the fence would tell.
        self._states: dict[str, State | None] = {}
        self._noted = False
        self._signed = False

    @property
    def lag(self) -> int:
        """How many events are known to wait for it."""
        return max(0, self._head.position - self.checkpoint)

    async def set_up(self) -> None:
        """See to the tables, and read where it stands. Safe when two servers do it at once."""
        async with self._database.transaction() as connection:
            await lock_schema(connection)
            if self.live:
                name, version = self.projection.name, self.projection.version
                await connection.execute(QUERIES["register_projection"], name, version)
                row = await connection.fetchrow(QUERIES["live_generation"], name)
                self.tables = GenerationTables(self.projection, row["generation"] if row else 1)
                await self.tables.create(connection)
            await self.tables.adapt(connection)
            await self.tables.index(connection)
            if self.live:
                await self.tables.show(connection)
        await self.reload()

    async def run(self) -> None:
        """Follow the log until cancelled; survives an outage of Postgres and a rival projector."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await self.reload()
                while True:
                    begun = loop.time()
                    async with self.turn:
                        folded = await self.fold_next()
                    await self._note(None)
                    backoff.reset()
                    if not folded:
                        await self._wait_for_more()
                    elif self.lag < self._limits.fold_events:
                        # It is at the head: what comes now is folded together, for a fraction of the price of each.
                        # The busier the machine, the longer: so a fold leaves the better part of it to the deliveries.
                        rest = max(REST_SECONDS, REST_SHARE * (loop.time() - begun))
                        await asyncio.sleep(min(rest, LONGEST_REST))
            except FencedError as error:
                raise_if_cancelled()
                logger.info("a rival projector was faster", error=str(error))
            except (IncompleteError, IncompleteReadError, SystematicError) as error:
                # Nothing that it says from here on could be trusted: stop, loudly.
                logger.critical("stopped a projection", error=str(error))
                await self._note(str(error))
                return
            except Exception as error:
                raise_if_cancelled()
                if is_outage(error):
                    logger.warning("a projection waits for Postgres", error=describe(error))
                else:
                    logger.error("a projection cannot go on", exc_info=error)
                    await self._note(describe(error))
            await asyncio.sleep(backoff.next_pause())

    async def fold_next(self, most: int | None = None) -> int:
        """Fold what follows in the log, a few stretches of it, at most `most` events; gives back how many it had.

        While one stretch is written, the next is read and folded already, on the states that this one leaves.
        """
        begun = self.checkpoint
        end = None if most is None else begun + most
        self._forget_surplus()
        writing: _Work[State] | None = None
        try:
            work = await self._prepare(begun, end, self._failing)
            for left in reversed(range(STRETCHES)):
                if work is None:
                    break
                writing = work
                if writing.more and left:
                    work, _ = await run_all(self._prepare_ahead(writing, end), self._write(writing))
                else:
                    # What is prepared is written, or the states in memory would be ahead of the table.
                    work = None
                    await self._write(writing)
        except BaseException as error:  # noqa: BLE001 - it is raised again, or mended
            await self._mend(error, writing and writing.tail)
        return self.checkpoint - begun

    async def fold_up_to(self, position: int) -> None:
        """Fold up to exactly this position, unless it is beyond that already or the log ends before it."""
        while self.checkpoint < position and await self.fold_next(position - self.checkpoint):
            pass

    async def _wait_for_more(self) -> None:
        if self._head.position > self.checkpoint:
            # More is known to be there, but not the next one: a gap, which only time will fill.
            await asyncio.sleep(FIRST_PAUSE)
        await self._head.wait_beyond(self.checkpoint)

    async def _note(self, error: str | None) -> None:
        """Keep `error`, and tell it to every process through the registry."""
        if error == self.error and self._noted:
            return
        self.error = error
        try:
            await self._registry.note_error(self.projection.name, self.tables.generation, error)
            self._noted = True
        except Exception as failure:  # noqa: BLE001 - whatever it is
            # The log has it; to tell it is not worth stopping for.
            raise_if_cancelled()
            logger.warning("could not note an error", error=describe(failure))
            self._noted = False

    async def reload(self) -> None:
        """Read where it stands."""
        self._states.clear()
        self.checkpoint, self._failing = await self._registry.where_it_stands(
            self.projection.name, self.tables.generation
        )

    async def _sign(self) -> None:
        """Write down, before the first fold, which code folds here."""
        if not self._signed:
            await self._registry.sign(
                self.projection.name, self.tables.generation, self._fingerprint
            )
            self._signed = True

    async def _prepare(self, after: int, end: int | None, failing: int) -> _Work[State] | None:
        """Read the next stretch of the log and fold it, as far as that is done in memory; None if there is none."""
        limit = self._limits.fold_events
        limit = limit if end is None else min(end - after, limit)
        tail = await self._reader.read_slice(after, limit, self._topics)
        if tail.through == tail.after:
            return None
        stretch = await self._evolve(tail, failing)
        more = self._head.position - stretch.checkpoint >= self._limits.fold_events
        return _Work(tail, stretch, more)

    async def _prepare_ahead(self, before: _Work[State], end: int | None) -> _Work[State] | None:
        """Prepare what follows `before` while that is written. What fails here will fail again when its turn comes."""
        stretch = before.stretch
        if stretch.checkpoint == end:
            return None
        try:
            return await self._prepare(stretch.checkpoint, end, stretch.failures_in_a_row)
        except IncompleteReadError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is
            raise_if_cancelled()
            logger.debug("could not fold ahead", error=describe(error))
            self._states.clear()
            return None

    async def _write(self, work: _Work[State]) -> None:
        """Write what a stretch of the log did. Raises FencedError, IncompleteError, and what Postgres finds wrong."""
        stretch = work.stretch
        if work.tail.events:
            await self._sign()
        try:
            moved = await self.tables.fold(self._database, stretch)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name != "complete":
                raise
            raise IncompleteError(projection=self.projection.name) from error
        if not moved:
            raise FencedError(projection=self.projection.name, checkpoint=stretch.after)
        self.checkpoint, self._failing = stretch.checkpoint, stretch.failures_in_a_row
        if self.live:
            self._registry.moved(self.projection.name, stretch.checkpoint)
        if stretch.quarantined:
            logger.warning(
                "put events in quarantine",
                projection=self.projection.name,
                count=len(stretch.quarantined),
                first_position=stretch.quarantined[0][0],
            )

    async def _mend(self, error: BaseException, tail: LogSlice | None) -> None:
        """Something failed, perhaps while `tail` was written: fold that apart if it is to blame, else raise `error`."""
        # They may be ahead of the table.
        self._states.clear()
        raise_if_cancelled()
        if tail is None or not tail.events or not is_refused_value(error):
            raise error
        # The database refuses a state that came out of it: find the event at fault, fold the others.
        if len(tail.events) == 1:
            stretch = await self._evolve(tail, self._failing, refused=describe(error))
            await self._write(_Work(tail, stretch))
            return
        for part in tail.split(len(tail.events) // 2):
            try:
                await self._write(_Work(part, await self._evolve(part, self._failing)))
            except BaseException as worse:  # noqa: BLE001 - as above
                await self._mend(worse, part)

    async def _states_of(self, streams: set[str]) -> dict[str, State | None]:
        """The states that these streams have: from memory, or else from the table."""
        found: Mapping[str, State | None] = self._states
        states = {stream: found[stream] for stream in streams if stream in found}
        if unknown := streams - states.keys():
            found = await self.tables.load(self._database, list(unknown))
            states.update({stream: found.get(stream) for stream in unknown})
        return states

    def _remember(self, states: Mapping[str, State | None]) -> None:
        """Keep states in memory, those last that came last."""
        known = self._states
        for stream in states:
            known.pop(stream, None)
        known.update(states)

    def _forget_surplus(self) -> None:
        """Of too many states keep those that came last. All of them have to be in the table."""
        surplus = len(self._states) - self._limits.fold_streams
        for stream in list(itertools.islice(self._states, max(0, surplus))):
            del self._states[stream]

    async def _evolve(
        self, tail: LogSlice, failing: int, refused: str | None = None
    ) -> FoldBatch[State]:
        """Fold events in memory, on the states that their streams have.

        `failing` events in a row could not be folded before; `refused` is why the database would not take the only
        event. Raises SystematicError.
        """
        loaded = await self._states_of({event.stream for event in tail.events})
        accumulator = Accumulator(self.projection, self._sources, loaded, failing)
        if refused:
            accumulator.quarantine(tail.events[0], refused)
        else:
            accumulator.fold(tail.events, self._limits.failures_in_a_row)
        batch = accumulator.batch(tail)
        count = batch.failures_in_a_row
        if count >= self._limits.failures_in_a_row:
            # What was folded before these is folded for good; the next try begins with them.
            good = accumulator.folded + accumulator.quarantined - count
            if good > 0:
                return await self._evolve(tail.split(good)[0], failing)
            raise SystematicError(
                projection=self.projection.name,
                checkpoint=tail.after,
                count=count,
                error=accumulator.last_error,
            )
        loaded.update((stream, state) for stream, (_, state) in batch.changed.items())
        self._remember(loaded)
        return batch
