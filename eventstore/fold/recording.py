"""What an event adds to the timeline of its thing, and what it posts: seen from the states before and after it.

Mostly a fact is the newest of its thing; then the two states say all there is to say. Of others the rest is found in
the timeline (`settle`).
"""

from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Generic

import msgspec
from msgspec import UNSET, UnsetType

from eventstore.fold.columns import check_storable_value
from eventstore.fold.projection import Projection, State, Timeline, Total
from eventstore.fold.timeline import (
    FIRST,
    Late,
    Row,
    array_of,
    difference,
)
from eventstore.log.events import Event


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The row of a fact, and what it posts; where it came `late`, both are yet to be settled."""

    row: Row
    postings: Sequence[Row] = ()
    late: Late | None = None


class _Absent(dict[tuple[type, ...], str | None]):
    """The columns that a fact leaves out, None if it gives all, by the types of its values.

    To compare each value with UNSET would take longer than all else, if it is a Decimal.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self._columns = columns

    def __missing__(self, types: tuple[type, ...]) -> str | None:
        names = [name for name, of in zip(self._columns, types, strict=True) if of is UnsetType]
        absent = self[types] = array_of(names) if names else None
        return absent


class Recorder(Generic[State]):
    """Records the facts of a projection that keeps a timeline."""

    def __init__(self, projection: Projection[State], timeline: Timeline) -> None:
        self._columns = timeline.columns
        self._placement = timeline.placement
        self._given = _values_of(timeline.columns)
        self._absent = _Absent(timeline.columns)
        total = projection.total
        self._worth = None if total is None else _worth_of(total, projection.tombstone)

    def record(
        self,
        before: State | None,
        after: State,
        fact: msgspec.Struct,
        event: Event,
        stream: str,
    ) -> Recorded | None:
        """Record a fact between two states of the stream that it belongs to; None if it is a repeat."""
        placement = self._placement(before, after, fact, event)
        if placement is None:
            return None
        values = self._given(fact)
        absent = self._absent[tuple(map(type, values))]
        if absent is not None:
            values = tuple([None if value is UNSET else value for value in values])
        head = stream, event.position, event.recorded_at, placement.effective_at
        row = (*head, placement.recorded, placement.rank, placement.kind, *values, absent)
        if not placement.newest:
            return Recorded(row, (), Late(row, placement.tie))
        if self._worth is None:
            return Recorded(row)
        old, new = None if before is None else self._worth(before), self._worth(after)
        return Recorded(row) if old == new else Recorded(row, _postings(head, old, new))

    def check_storable(self, row: Row) -> None:
        """Raise UnstorableError if Postgres would not take what a fact gave."""
        for name, value in zip(self._columns, row[FIRST:-1], strict=True):
            check_storable_value(name, value)


@cache
def recorder_of(projection: Projection[Any]) -> "Recorder[Any] | None":
    """The recorder of a projection; None if it keeps no timeline."""
    return None if projection.timeline is None else Recorder(projection, projection.timeline)


def _values_of(names: Sequence[str]) -> Callable[[Any], Row]:
    """How to read these fields."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda struct: tuple(getattr(struct, name) for name in names)


def _worth_of(total: Total, tombstone: str | None) -> Callable[[Any], Row]:
    """How to read what a state is worth: when it was deleted, the amount, the columns that it is added up by."""
    if tombstone is not None:
        return attrgetter(tombstone, total.amount, *total.by)
    read = _values_of((total.amount, *total.by))
    return lambda state: (None, *read(state))


def _postings(head: Row, old: Row | None, new: Row) -> list[Row]:
    """What the newest fact of a thing posts: the difference of what the states before and after it are worth.

    `head` is what a posting begins with. This is what `change` makes of two measures, for those that most facts have.
    """
    was = None if old is None or old[0] is not None else old[1]
    now = None if new[0] is not None else new[1]
    if old is None or not was:
        return [(*head, *new[2:], now)] if now else []
    if now and old[2:] == new[2:]:
        return [(*head, *new[2:], difference(now, was))]
    gone = (*head, *old[2:], difference(0, was))
    return [(*head, *new[2:], now), gone] if now else [gone]
