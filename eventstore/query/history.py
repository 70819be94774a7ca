"""Why a state is what it is: its stream, event by event, with what each one did."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from eventstore.fold.columns import Column, columns_of
from eventstore.fold.folding import Folded, Verdict, fold
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.status import Change
from eventstore.log.events import Event


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a history: what it did to the state, and its verdict.

    `duplicate`: its body equals that of the event before it in the stream. `stale`: older than what the state held.
    `ignored`: this projection does not handle its topic. `quarantined`: it could not be folded; `error` says why.
    """

    position: int
    event_id: UUID
    topic: str
    received_at: datetime
    recorded_at: datetime
    verdict: Verdict
    changes: dict[str, Change]
    error: str | None = None


async def history(
    projection: Projection[State],
    sources: Mapping[str, Source],
    events: AsyncIterator[Event],
    quarantined: Mapping[int, str],
) -> AsyncIterator[Step]:
    """Fold a stream's events again, from its first, and tell what each one did.

    `quarantined` are the positions in quarantine, each with its error: the database may have refused what folds well
    in memory.
    """
    columns = columns_of(projection.state)
    state: State | None = None
    last: Event | None = None
    async for event in events:
        folded = (
            Folded("quarantined", state, quarantined[event.position])
            if event.position in quarantined
            else fold(projection, sources, state, event)
        )
        repeated = last is not None and _said(last) == _said(event)
        duplicate = repeated and folded.verdict in {"applied", "stale"}
        yield Step(
            position=event.position,
            event_id=event.event_id,
            topic=event.topic,
            received_at=event.received_at,
            recorded_at=event.recorded_at,
            verdict="duplicate" if duplicate else folded.verdict,
            changes=_changes(columns, state, folded.state),
            error=folded.error,
        )
        state, last = folded.state, event


def _said(event: Event) -> tuple[object, ...]:
    return event.body, event.topic, event.program_id


def _changes(columns: tuple[Column, ...], before: object, after: object) -> dict[str, Change]:
    if after is before:
        return {}
    pairs = (
        (column.name, getattr(before, column.name, None), getattr(after, column.name))
        for column in columns
    )
    return {name: Change(old, new) for name, old, new in pairs if old != new}
