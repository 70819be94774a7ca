"""What each event of a thing did to its state, found by folding its events again."""

from collections.abc import AsyncIterator, Mapping
from copy import copy
from datetime import datetime
from typing import Generic, Literal, TypeAlias
from uuid import UUID

import msgspec

from eventstore.fold.columns import Column, shown_columns_of
from eventstore.fold.explaining import Explainer, Reason
from eventstore.fold.folding import EventVerdict, Folded, fold
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.refiling import find_stream
from eventstore.fold.status import Change
from eventstore.log.events import Event

# Whose time an event counts at.
EffectiveFrom: TypeAlias = Literal["provider", "recorded"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a history: its `position`, `event_id`, `topic`, when it came and was recorded, and what it did.

    `received_at` is by the clock of the process that received it, `recorded_at` by the log's. `changes` are the fields
    that it changed, by name. It counts at `effective_at`, the provider's own time, or the recorded one where
    `effective_from` is `recorded`. `verdict` is what became of it. `applied`: it was the newest. `tie`: there was
    another one of its time, and their order is by rank or position. `late`: it is older than another, and changed only
    what that left. `stale`: it is older, and changed nothing. `duplicate`: it says what another one said of that time.
    `ignored`: this projection does not handle its topic. `quarantined`: it could not be folded; `error` says why.
    `decided_by` is the position of the event that was newer, or that it repeats. `reason` `after-deletion`: the thing
    stayed deleted, by that event.
    """

    position: int
    event_id: UUID
    topic: str
    received_at: datetime
    recorded_at: datetime
    verdict: EventVerdict
    changes: dict[str, Change]
    error: str | None = None
    effective_at: datetime | None = None
    effective_from: EffectiveFrom | None = None
    decided_by: int | None = None
    reason: Reason | None = None


class HistoryFold(Generic[State]):
    """Folds the events of one stream, from its first, and tells what each one did."""

    def __init__(
        self, projection: Projection[State], sources: Mapping[str, Source], stream: str
    ) -> None:
        self._projection = projection
        self._sources = sources
        self._stream = stream
        self._columns = shown_columns_of(projection.state)
        self._state: State | None = None
        self._explainer = Explainer()

    def fork(self) -> "HistoryFold[State]":
        """Another one that goes on from here, apart from this one."""
        forked = copy(self)
        forked._explainer = self._explainer.fork()  # noqa: SLF001 - of this class
        return forked

    def step(self, event: Event, quarantined: Mapping[int, str]) -> Step | None:
        """What the next event did, unmasked; None if it belongs to another stream: see `read_thing`.

        `quarantined` are the positions in quarantine, each with its error: the database may have refused what folds
        well in memory.
        """
        if find_stream(self._sources, event) != self._stream:
            return None
        before = self._state
        folded = (
            Folded("quarantined", before, quarantined[event.position])
            if event.position in quarantined
            else fold(self._projection, self._sources, before, event)
        )
        self._state = folded.state
        verdict, judgement = folded.verdict, folded.judgement
        decided_by, reason, effective_at = None, None, None
        effective_from: EffectiveFrom | None = None
        if judgement is not None:
            verdict, decided_by, reason = self._explainer.explain(judgement, event.position)
            effective_at = judgement.effective_at
            effective_from = "recorded" if judgement.recorded else "provider"
        return Step(
            position=event.position,
            event_id=event.event_id,
            topic=event.topic,
            received_at=event.received_at,
            recorded_at=event.recorded_at,
            verdict=verdict,
            effective_at=effective_at,
            effective_from=effective_from,
            decided_by=decided_by,
            reason=reason,
            changes=_changes(self._columns, before, folded.state),
            error=folded.error,
        )


async def fold_steps(
    projection: Projection[State],
    sources: Mapping[str, Source],
    stream: str,
    events: AsyncIterator[Event],
    quarantined: Mapping[int, str],
) -> AsyncIterator[Step]:
    """Fold a stream's events, from its first, and give what each one did, as HistoryFold.step does."""
    folding = HistoryFold(projection, sources, stream)
    async for event in events:
        if (step := folding.step(event, quarantined)) is not None:
            yield step


def _changes(columns: tuple[Column, ...], before: object, after: object) -> dict[str, Change]:
    if after is before:
        return {}
    pairs = (
        (column.name, getattr(before, column.name, None), getattr(after, column.name))
        for column in columns
    )
    return {name: Change(old, new) for name, old, new in pairs if old != new}
