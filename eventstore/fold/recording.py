"""What an event adds to the timeline of its thing, and what it posts: seen from the states before and after it.

Mostly a fact is the newest of its thing; then the two states say all there is to say. Of others the rest is found in
the timeline (`settle`).
"""

from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Generic

import msgspec
from msgspec import UNSET

from eventstore.fold.columns import check_storable_value
from eventstore.fold.projection import Projection, State, Timeline, Total
from eventstore.fold.timeline import (
    EFFECTIVE_AT,
    FIRST,
    Late,
    Measure,
    Row,
    array_of,
    change,
    posting,
)
from eventstore.log.events import Event


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The row of a fact, and what it posts; where it came `late`, both are yet to be settled."""

    row: Row
    postings: Sequence[Row] = ()
    late: Late | None = None


class Recorder(Generic[State]):
    """Records the facts of a projection that keeps a timeline."""

    def __init__(self, projection: Projection[State], timeline: Timeline) -> None:
        self._columns = timeline.columns
        self._placement = timeline.placement
        self._given = _values_of(timeline.columns)
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
        values, absent = self._given(fact), None
        if UNSET in values:
            values, absent = self._parted(values)
        row = (
            stream,
            event.position,
            event.recorded_at,
            placement.effective_at,
            placement.recorded,
            placement.rank,
            placement.kind,
            *values,
            absent,
        )
        if not placement.newest:
            return Recorded(row, (), Late(row, placement.tie))
        if self._worth is None:
            return Recorded(row)
        new = self._worth(after)
        if before is None:
            return Recorded(row, _postings(row, None, new))
        old = self._worth(before)
        return Recorded(row) if old == new else Recorded(row, _postings(row, old, new))

    def check_storable(self, row: Row) -> None:
        """Raise UnstorableError if Postgres would not take what a fact gave."""
        for name, value in zip(self._columns, row[FIRST:-1], strict=True):
            check_storable_value(name, value)

    def _parted(self, values: Row) -> tuple[Row, str]:
        """What is given, and the names of what is not."""
        absent = array_of(
            name for name, value in zip(self._columns, values, strict=True) if value is UNSET
        )
        return tuple(None if value is UNSET else value for value in values), absent


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


def _postings(row: Row, old: Row | None, new: Row) -> list[Row]:
    """What the newest fact of a thing posts: the difference of what the states before and after it are worth."""
    time = row[EFFECTIVE_AT]
    before, after = None if old is None else _measure(old), _measure(new)
    if before is not None and after is not None and before[0] == after[0]:
        amount, other = after[1], before[1]
        if type(amount) is int and type(other) is int:
            # As `change` has it, for what is by far the most frequent.
            return [posting(row, time, after[0], amount - other)]
    return [posting(row, time, by, amount) for by, amount in change(before, after).items()]


def _measure(worth: Row) -> Measure | None:
    deleted_at, amount, *by = worth
    return None if deleted_at is not None or amount is None else (tuple(by), amount)
