"""The live fold: follow the log, fold each event once, move states and checkpoint in one transaction."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic

import asyncpg
import structlog

from eventstore.errors import (
    FencedError,
    IncompleteError,
    describe,
    heed_cancellation,
    is_outage,
    is_poison,
)
from eventstore.events import Event
from eventstore.projection import Folded, Projection, Source, State, fold, handled_topics
from eventstore.queries import QUERIES
from eventstore.tables import StateTable, Stretch

if TYPE_CHECKING:
    from eventstore.database import Database
    from eventstore.limits import Limits
    from eventstore.log import Log
    from eventstore.registry import Registry

logger = structlog.get_logger()

# Seconds between tries after a failure: the first, doubled up to the last.
FIRST_PAUSE = 0.05
LAST_PAUSE = 5.0

# Seconds that a projector at the head of a busy log lets events gather. One that has been idle folds at once.
REST_SECONDS = 0.015


class Projector(Generic[State]):
    """Folds the log into the live generation of one projection, for as long as it runs.

    `error` is what stops it at the moment, in one line, or None.
    """

    def __init__(
        self,
        projection: Projection[State],
        *,
        sources: Mapping[str, Source],
        database: "Database",
        log: "Log",
        registry: "Registry",
        limits: "Limits",
    ) -> None:
        self.projection = projection
        self.error: str | None = None
        self._sources = sources
        self._database = database
        self._log = log
        self._registry = registry
        self._limits = limits
        self._topics = handled_topics(projection, sources)
        self._table = StateTable(projection, 1)
        self._checkpoint = 0
        self._noted = False

    async def set_up(self) -> None:
        """Enter the projection in the registry and make its table, once. Safe when two servers do it at once."""
        async with self._database.transaction() as connection:
            await connection.execute(QUERIES["lock_schema"])
            await connection.execute(
                QUERIES["register_projection"], self.projection.name, self.projection.version
            )
            await self._table.create(connection)
        await self._reload()

    async def run(self) -> None:
        """Follow the log until cancelled; survives an outage of Postgres and a rival projector."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._reload()
                while True:
                    folded = await self.fold_next()
                    await self._note(None)
                    pause = FIRST_PAUSE
                    if not folded:
                        await self._wait_for_more()
                    elif folded < self._limits.fold_events:
                        # It is at the head: what comes now is folded together, for a fraction of the price of each.
                        await asyncio.sleep(REST_SECONDS)
            except FencedError as error:
                heed_cancellation()
                logger.info("a rival projector was faster", error=str(error))
            except IncompleteError as error:
                # Counting wrong once means that nothing it says can be trusted: stop, loudly.
                logger.critical("stopped a projection", error=str(error))
                await self._note(str(error))
                return
            except Exception as error:
                heed_cancellation()
                if is_outage(error):
                    logger.warning("a projection waits for Postgres", error=describe(error))
                else:
                    logger.error("a projection cannot go on", exc_info=error)
                    await self._note(describe(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def fold_next(self) -> int:
        """Fold the next stretch of the log; gives back how many events it had."""
        events = await self._log.read_tail(self._checkpoint, self._limits.fold_events, self._topics)
        if events:
            await self._fold(events)
        return len(events)

    async def _wait_for_more(self) -> None:
        if self._log.head > self._checkpoint:
            # More is known to be there, but not the next one: a gap, which only time will fill.
            await asyncio.sleep(FIRST_PAUSE)
        await self._log.wait_beyond(self._checkpoint)

    async def _note(self, error: str | None) -> None:
        """Keep `error`, and tell it to every process through the registry."""
        if error == self.error and self._noted:
            return
        self.error = error
        try:
            await self._registry.note_error(self.projection.name, self._table.generation, error)
            self._noted = True
        except Exception as failure:  # noqa: BLE001 - whatever it is
            # The log has it; to tell it is not worth stopping for.
            heed_cancellation()
            logger.warning("could not note an error", error=describe(failure))
            self._noted = False

    async def _reload(self) -> None:
        _, self._checkpoint = await self._registry.checkpoint(self.projection.name)

    async def _fold(self, events: Sequence[Event], refused: str | None = None) -> None:
        """Fold contiguous events; `refused` is why the database would not take the only one."""
        if events[0].position != self._checkpoint + 1:
            message = f"expected position {self._checkpoint + 1}, read {events[0].position}"
            raise AssertionError(message)
        stretch = await self._evolve(events, refused)
        try:
            moved = await self._table.fold(self._database, stretch)
        except asyncpg.CheckViolationError as error:
            if error.constraint_name != "complete":
                raise
            raise IncompleteError(projection=self.projection.name) from error
        except Exception as error:
            if not is_poison(error) or refused:
                raise
            await self._fold_apart(events, describe(error))
            return
        if not moved:
            raise FencedError(projection=self.projection.name, checkpoint=self._checkpoint)
        self._checkpoint = stretch.checkpoint
        self._registry.moved(self.projection.name, stretch.checkpoint)
        if stretch.quarantined:
            logger.warning(
                "put events in quarantine",
                projection=self.projection.name,
                count=len(stretch.quarantined),
                first_position=stretch.quarantined[0][0],
            )

    async def _fold_apart(self, events: Sequence[Event], error: str) -> None:
        """The database refuses a state that came out of `events`: find the event at fault, fold the others."""
        if len(events) == 1:
            await self._fold(events, refused=error)
            return
        middle = len(events) // 2
        await self._fold(events[:middle])
        await self._fold(events[middle:])

    async def _evolve(self, events: Sequence[Event], refused: str | None) -> Stretch[State]:
        """Fold events in memory, on the states that their streams have."""
        streams = {e.stream for e in events if f"{e.provider} {e.topic}" in self._topics}
        states: dict[str, Any] = (
            await self._table.load(self._database, list(streams)) if streams else {}
        )
        changed: dict[str, tuple[int, State]] = {}
        quarantined: list[tuple[int, str, str]] = []
        ignored = 0
        for event in events:
            before = states.get(event.stream)
            folded = (
                Folded("quarantined", before, refused)
                if refused
                else fold(self.projection, self._sources, before, event)
            )
            if folded.verdict == "ignored":
                ignored += 1
            elif folded.error is not None:
                quarantined.append((event.position, event.stream, folded.error))
            elif folded.state != before:
                states[event.stream] = folded.state
                changed[event.stream] = (event.position, folded.state)
        return Stretch(
            after=self._checkpoint,
            checkpoint=events[-1].position,
            folded=len(events) - ignored - len(quarantined),
            ignored=ignored,
            changed=changed,
            quarantined=quarantined,
        )
