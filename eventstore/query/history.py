"""Why a state is what it is: its stream, event by event, with what each one did."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias, cast
from uuid import UUID

import msgspec

from eventstore.fold.columns import Column, mask, shown_columns_of
from eventstore.fold.explaining import Explainer, Reason
from eventstore.fold.folding import EventVerdict, Folded, fold
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.refiling import find_stream, read_thing
from eventstore.fold.status import Change
from eventstore.log.events import Event
from eventstore.log.streams import stream_part
from eventstore.query.cursor import Page, page_of
from eventstore.query.states import States, ambiguous
from eventstore.query.visibility import Visibility
from eventstore.tasks import Pacer

if TYPE_CHECKING:
    from eventstore.fold.quarantine import Quarantine
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database


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


class History:
    """The histories of the things of one projection."""

    def __init__(
        self,
        states: States,
        quarantine: "Quarantine",
        sources: Mapping[str, Source],
        database: "Database",
        limits: "Limits",
    ) -> None:
        self._states = states
        self._projection = states.projection
        self._quarantine = quarantine
        self._sources = sources
        self._database = database
        self._limits = limits
        self._secrets = {c.name for c in shown_columns_of(self._projection.state) if c.secret}

    async def page(
        self,
        visibility: Visibility,
        id_: str,
        owner: Mapping[str, str],
        after: int,
        limit: int,
        at_least: int = 0,
    ) -> Page[Step, int]:
        """What the events of one thing did, at most `limit` of those after position `after`.

        `owner` and `at_least` are as for States.find. Raises NotFoundError, AmbiguousError, NotFoldedError.
        """
        await self._states.wait_for(at_least)
        stream = await self._find_stream(visibility, id_, owner)
        events = read_thing(self._database, self._projection.name, None, stream, self._limits)
        quarantined = await self._quarantine.errors(self._projection.name, stream)
        steps: list[Step] = []
        async for step in fold_steps(self._projection, self._sources, stream, events, quarantined):
            if step.position > after:
                steps.append(step if visibility.revealed else self._masked(step))
            if len(steps) > limit:
                break
        return page_of(steps, limit, lambda step: step.position)

    async def _find_stream(self, visibility: Visibility, id_: str, owner: Mapping[str, str]) -> str:
        """The one stream of the thing; of some there are only events in quarantine."""
        streams = await self._states.find_streams(visibility, id_, owner)
        if not streams:
            streams = await self._find_quarantined_streams(visibility, id_, owner)
        if not streams:
            raise self._states.not_found(id_)
        if len(streams) > 1:
            owners = (cast("tuple[str, str]", s.split("/")[:2]) for s in sorted(streams))
            raise ambiguous(id_, owners)
        return streams.pop()

    async def _find_quarantined_streams(
        self, visibility: Visibility, id_: str, owner: Mapping[str, str]
    ) -> set[str]:
        shown = visibility.merchants and {stream_part(one) for one in visibility.merchants}
        places = {"provider": 0, "merchant_id": 1}
        streams = await self._quarantine.streams(self._projection.name, stream_part(id_))
        return {
            stream
            for stream in streams
            if (shown is None or stream.split("/")[1] in shown)
            and all(
                stream.split("/")[places[name]] == stream_part(value)
                for name, value in owner.items()
            )
        }

    def _masked(self, step: Step) -> Step:
        changes = {
            name: Change(mask(change.before), mask(change.after))
            if name in self._secrets
            else change
            for name, change in step.changes.items()
        }
        return msgspec.structs.replace(step, changes=changes)


async def fold_steps(
    projection: Projection[State],
    sources: Mapping[str, Source],
    stream: str,
    events: AsyncIterator[Event],
    quarantined: Mapping[int, str],
) -> AsyncIterator[Step]:
    """Fold a stream's events again, from its first, and give what each one did, unmasked.

    Events that belong to other streams are left out, as they were when the state was folded; see `read_thing`.
    `quarantined` are the positions in quarantine, each with its error: the database may have refused what folds well
    in memory.
    """
    columns = shown_columns_of(projection.state)
    state: State | None = None
    explainer = Explainer()
    pacer = Pacer()
    async for event in events:
        await pacer.pause()
        if find_stream(sources, event) != stream:
            continue
        folded = (
            Folded("quarantined", state, quarantined[event.position])
            if event.position in quarantined
            else fold(projection, sources, state, event)
        )
        verdict, judgement = folded.verdict, folded.judgement
        decided_by, reason, effective_at = None, None, None
        effective_from: EffectiveFrom | None = None
        if judgement is not None:
            verdict, decided_by, reason = explainer.explain(judgement, event.position)
            effective_at = judgement.effective_at
            effective_from = "recorded" if judgement.recorded else "provider"
        yield Step(
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
            changes=_changes(columns, state, folded.state),
            error=folded.error,
        )
        state = folded.state


def _changes(columns: tuple[Column, ...], before: object, after: object) -> dict[str, Change]:
    if after is before:
        return {}
    pairs = (
        (column.name, getattr(before, column.name, None), getattr(after, column.name))
        for column in columns
    )
    return {name: Change(old, new) for name, old, new in pairs if old != new}
