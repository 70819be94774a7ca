"""The timeline of a thing: its facts in the order in which they count, and what follows from them at any time.

A row has what one fact gave: see TIMELINE_COLUMNS, then the projection's own columns, then which of these the fact left
out. A column that a fact leaves out keeps its value; a creation after a deletion starts from nothing. The order is that
of the state: by effective time, then by rank, then by position.

Postings are the ledger of a thing. What was known at position P of time T is the sum of the postings with a position up
to P and an effective time up to T. So a late fact posts, at its own time and at each later time at which it makes a
difference, the amount by which it changes what was known.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from functools import reduce
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import msgspec

from eventstore.fold.projection import TIMELINE_COLUMNS, Projection

# The values of a row, in the order of its table's columns.
Row: TypeAlias = tuple[Any, ...]

# Where a fact stands among those of its thing: effective time, rank, position.
Key: TypeAlias = tuple[datetime, int, int]

# The columns by which amounts are added up, and an amount.
Measure: TypeAlias = tuple[Row, Any]

STREAM, POSITION, RECORDED_AT, EFFECTIVE_AT, IS_RECORDED, RANK, FACT = range(len(TIMELINE_COLUMNS))
FIRST = len(TIMELINE_COLUMNS)

# Sums and differences of amounts are exact.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


class Snapshot(NamedTuple):
    """What is known of a thing: the values of its timeline's columns, and whether it is deleted."""

    values: Row
    deleted: bool


class Late(NamedTuple):
    """A fact that came after one that counts later. `tie`: what was said of its time still counts, and it says more."""

    row: Row
    tie: bool


class Shape:
    """What the timelines of a projection are made of. `nothing` is what is known before the first fact."""

    def __init__(self, projection: Projection[Any]) -> None:
        timeline = projection.timeline
        self.columns = () if timeline is None else timeline.columns
        total = None if timeline is None else projection.total
        fields = {field.name: field for field in msgspec.structs.fields(projection.state)}
        defaults = (fields[name].default for name in self.columns)
        self.nothing = Snapshot(
            tuple(None if d is msgspec.NODEFAULT else d for d in defaults), deleted=False
        )
        self._amount = -1 if total is None else self.columns.index(total.amount)
        self._by = () if total is None else tuple(map(self.columns.index, total.by))

    def after(self, known: Snapshot, row: Row) -> Snapshot:
        """What is known after one more fact, which counts after all before."""
        values, deleted = known
        if row[FACT] == "deletion":
            deleted = True
        elif deleted and row[FACT] == "creation":
            values, deleted = self.nothing
        given = row[FIRST:-1]
        if row[-1] is not None:
            absent = columns_in(row[-1])
            given = tuple(
                old if name in absent else new
                for name, old, new in zip(self.columns, values, given, strict=True)
            )
        return Snapshot(given, deleted)

    def measure(self, known: Snapshot) -> Measure | None:
        """The amount that a thing adds to the totals; None if it adds nothing."""
        if known.deleted or self._amount < 0 or (amount := known.values[self._amount]) is None:
            return None
        return tuple(known.values[n] for n in self._by), amount


class StreamTimeline:
    """The facts of one thing that are known."""

    def __init__(self, shape: Shape, rows: Iterable[Row] = ()) -> None:
        self._shape = shape
        self._rows: list[tuple[Key, Row]] = sorted((key_of(row), row) for row in rows)
        # Of each column the facts that give it; and the creations and deletions.
        self._given: list[list[tuple[Key, Any]]] = [
            [
                (key, row[n])
                for key, row in self._rows
                if row[-1] is None or name not in columns_in(row[-1])
            ]
            for n, name in enumerate(shape.columns, FIRST)
        ]
        self._marks = [
            (key, row[FACT] == "deletion") for key, row in self._rows if row[FACT] != "change"
        ]

    def add(self, row: Row) -> None:
        """Add a fact, wherever it stands."""
        key = key_of(row)
        insort(self._rows, (key, row))
        absent = () if row[-1] is None else columns_in(row[-1])
        for n, name in enumerate(self._shape.columns):
            if name not in absent:
                insort(self._given[n], (key, row[FIRST + n]), key=_key)
        if row[FACT] != "change":
            insort(self._marks, (key, row[FACT] == "deletion"))

    def has_like(self, row: Row) -> bool:
        """Whether there is a fact that says, by a provider's time, the same of the same time."""
        if row[IS_RECORDED]:
            return False
        time = row[EFFECTIVE_AT]
        said = row[EFFECTIVE_AT:]
        index = bisect_left(self._rows, time, key=lambda item: item[0][0])
        while index < len(self._rows) and self._rows[index][0][0] == time:
            if self._rows[index][1][EFFECTIVE_AT:] == said:
                return True
            index += 1
        return False

    def postings(self, row: Row) -> Iterator[Row]:
        """What a further fact posts, wherever it stands: by how much it changes what was known, at which times."""
        shape, rows = self._shape, self._rows
        index = bisect_left(rows, key_of(row), key=_key)
        without = self._before(key_of(row))
        with_it = shape.after(without, row)
        posted: dict[Row, Any] = {}
        time = row[EFFECTIVE_AT]
        while True:
            while index < len(rows) and rows[index][0][0] == time:
                without = shape.after(without, rows[index][1])
                with_it = shape.after(with_it, rows[index][1])
                index += 1
            changed = change(shape.measure(without), shape.measure(with_it))
            for by, amount in _minus(changed, posted).items():
                yield (row[STREAM], row[POSITION], row[RECORDED_AT], time, *by, amount)
            if index == len(rows) or with_it == without:
                # From here on it makes no further difference.
                return
            posted, time = changed, rows[index][0][0]

    def _before(self, key: Key) -> Snapshot:
        """What is known by the facts before this key."""
        nothing = self._shape.nothing
        beginning, deleted = None, False
        for at, deletes in self._marks[: bisect_left(self._marks, key, key=_key)]:
            if not deletes and deleted:
                beginning = at
            deleted = deletes
        values = list(nothing.values)
        for n, given in enumerate(self._given):
            if index := bisect_left(given, key, key=_key):
                at, value = given[index - 1]
                if beginning is None or at >= beginning:
                    values[n] = value
        return Snapshot(tuple(values), deleted)


def known_at(shape: Shape, rows: Iterable[Row], time: datetime, position: int) -> Snapshot:
    """What was known of a thing at a position of the time `time`; `rows` are those of its timeline."""
    known = (row for row in rows if row[EFFECTIVE_AT] <= time and row[POSITION] <= position)
    return reduce(shape.after, sorted(known, key=key_of), shape.nothing)


def settle(
    shape: Shape, rows: Collection[Row], late: Collection[Late]
) -> tuple[list[Row], list[Row]]:
    """The rows and the postings of facts of one thing that came late; `rows` are those of its other facts.

    The result is as if each had been settled on arrival. One with the content of another of the same time is a repeat.
    """
    by_position = sorted(late, key=lambda one: one.row[POSITION])
    first, last = by_position[0].row[POSITION], by_position[-1].row[POSITION]
    timeline = StreamTimeline(shape, (row for row in rows if row[POSITION] < first))
    between = deque(
        sorted((row for row in rows if first < row[POSITION] < last), key=itemgetter(POSITION))
    )
    late_rows: list[Row] = []
    postings: list[Row] = []
    for one in by_position:
        row = one.row
        while between and between[0][POSITION] < row[POSITION]:
            timeline.add(between.popleft())
        if one.tie or not timeline.has_like(row):
            late_rows.append(row)
            postings += timeline.postings(row)
            timeline.add(row)
    return late_rows, postings


def late_by_stream(late: Iterable[Late]) -> dict[str, list[Late]]:
    """Facts that came late, by their streams."""
    found: dict[str, list[Late]] = {}
    for one in late:
        found.setdefault(one.row[STREAM], []).append(one)
    return found


def change(before: Measure | None, after: Measure | None) -> dict[Row, Any]:
    """By how much amounts change, in groups; those of unlike ones are never taken from one another."""
    if before is None:
        return {after[0]: after[1]} if after is not None and after[1] else {}
    return _minus({} if after is None else dict((after,)), dict((before,)))


def difference(one: Any, other: Any) -> Any:  # noqa: ANN401 - whole or decimal numbers
    """What is left of one number without another, exactly; as a Decimal if it has more than 64 bits."""
    if type(one) is int and type(other) is int:
        left = one - other
        return left if -(2**63) <= left < 2**63 else Decimal(left)
    return _EXACT.subtract(one, other)


def _minus(left: Mapping[Row, Any], right: Mapping[Row, Any]) -> dict[Row, Any]:
    """The differences that are not zero."""
    if left == right:
        return {}
    found = {}
    for by in (*left, *(by for by in right if by not in left)):
        if amount := difference(left.get(by, 0), right.get(by, 0)):
            found[by] = amount
    return found


def key_of(row: Row) -> Key:
    """Where the fact of a row stands."""
    return row[EFFECTIVE_AT], row[RANK], row[POSITION]


def _key(item: tuple[Key, Any]) -> Key:
    return item[0]


class _ColumnsIn(dict[str, frozenset[str]]):
    """Names of columns, by their array as Postgres writes it."""

    def __missing__(self, array: str) -> frozenset[str]:
        names = self[array] = frozenset(array.strip("{}").split(","))
        return names


_COLUMNS_IN = _ColumnsIn()


def columns_in(array: str) -> frozenset[str]:
    """The names in an array of columns."""
    return _COLUMNS_IN[array]


def array_of(columns: Iterable[str]) -> str:
    """An array of names of columns, as Postgres writes it."""
    return "{" + ",".join(columns) + "}"
