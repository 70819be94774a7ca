"""Folding slices of the log in memory, on the states that their streams have: live, so with a limit to failures."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic

import structlog

from eventstore.errors import SystematicError
from eventstore.fold.failures import Failing
from eventstore.fold.folding import Accumulator, FoldBatch, StateAt
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.writing import GenerationWriter
from eventstore.log.events import LogSlice

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

logger = structlog.get_logger()


class SliceFolder(Generic[State]):
    """Folds for one generation, whose states it reads by `writer`, and keeps in memory while they are in use."""

    def __init__(
        self,
        projection: Projection[State],
        sources: Mapping[str, Source],
        writer: GenerationWriter[State],
        database: "Database",
        limits: "Limits",
    ) -> None:
        self._projection = projection
        self._sources = sources
        self._writer = writer
        self._database = database
        self._limits = limits
        # Tenants that fail while others are known to fold.
        self._excused: set[str] = set()
        # States as they are in the table, None where there is none: nobody else writes there, or the fence would tell.
        self._states: dict[str, StateAt[State] | None] = {}

    async def fold(
        self, log_slice: LogSlice, failing: Failing, refused: str | None = None
    ) -> FoldBatch[State]:
        """Fold events in memory, on the states of their streams, which are kept as they are afterwards.

        `failing` are the failures in a row before them; `refused` is why the database would not take the only event.
        Raises SystematicError.
        """
        limit = self._limits.failures_in_a_row
        streams = {event.stream for event in log_slice.events}
        while True:
            states = await self._load_states(streams)
            accumulator = Accumulator(self._projection, self._sources, states, failing)
            topic: str | None
            if refused is None:
                topic = accumulator.fold(log_slice.events, limit, self._excused)
            else:
                topic = accumulator.refuse(log_slice.events[0], refused)
                if not accumulator.failures.reaches(topic, limit, self._excused):
                    topic = None
            if not accumulator.missing:
                break
            # Some are about other things than their streams on record: few, so that these need not be read ahead.
            streams |= accumulator.missing
        failures = accumulator.failures
        if topic is not None:
            if await self._is_excused_now(failures.main_tenant(topic)):
                return await self.fold(log_slice, failing, refused)
            # What came before is written; the next fold begins with the event that reaches the limit, and raises.
            good = accumulator.folded + accumulator.quarantined - 1
            if good > 0:
                return await self.fold(log_slice.split(good)[0], failing)
            raise SystematicError(
                projection=self._projection.name,
                checkpoint=log_slice.after,
                topic=topic,
                count=limit,
                error=accumulator.last_error,
            )
        batch = accumulator.batch(log_slice)
        states.update(accumulator.changed)
        self._remember(states)
        return batch

    def forget_states(self) -> None:
        """Read every state from the table from now on: what is in memory may be ahead of it."""
        self._states.clear()

    def evict_states(self) -> None:
        """Keep only the most recent states in memory. All of them have to be in the table."""
        surplus = len(self._states) - self._limits.fold_streams
        for stream in list(itertools.islice(self._states, max(0, surplus))):
            del self._states[stream]

    async def _load_states(self, streams: set[str]) -> dict[str, StateAt[State] | None]:
        """The states of these streams: from memory, or else from the table."""
        found: Mapping[str, StateAt[State] | None] = self._states
        states = {stream: found[stream] for stream in streams if stream in found}
        if unknown := streams - states.keys():
            found = await self._writer.load_states(self._database, list(unknown))
            states.update({stream: found.get(stream) for stream in unknown})
        return states

    def _remember(self, states: Mapping[str, StateAt[State] | None]) -> None:
        """Keep states in memory; the most recent ones come last."""
        known = self._states
        for stream in states:
            known.pop(stream, None)
        known.update(states)

    async def _is_excused_now(self, tenant: str) -> bool:
        """Excuse a tenant ("provider/tenant/") if others are known; False if it was already."""
        if tenant in self._excused or not await self._writer.has_other_tenant(
            self._database, tenant
        ):
            return False
        self._excused.add(tenant)
        logger.warning(
            "tenant_failing",
            message="Events of one tenant fail in a row, those of others do not: the projection goes on.",
            projection=self._projection.name,
            tenant=tenant.rstrip("/"),
        )
        return True
