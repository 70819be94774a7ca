"""Timelines and postings: what was known at any position of any time, held to a naive fold on both axes."""

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.fold.folding import Accumulator, handled_topics
from eventstore.fold.projection import Projection
from eventstore.fold.timeline import (
    EFFECTIVE_AT,
    POSITION,
    STREAM,
    Late,
    Row,
    Shape,
    Snapshot,
    key_of,
    known_at,
    settle,
)
from eventstore.log.events import Event, LogSlice
from tests.support import NOON, on_record, reference_model
from tests.support.generated_deliveries import PROVIDERS, logs, of_tenant, to_event
from tests.support.live_fold import PROJECTIONS
from tests.support.orders import another_order, said
from tests.support.reference_model import Change, Json, Place, Sent

KEPT = [name for name, projection in PROJECTIONS.items() if projection.timeline is not None]


def log_of(deliveries: Sequence[Sent]) -> list[Event]:
    """On record; whatever its position, a delivery is recorded when it was received."""
    return [on_record(to_event(sent), n, sent.received_at) for n, sent in enumerate(deliveries, 1)]


def written(
    projection: Projection[Any], log: Sequence[Event], cuts: Sequence[int]
) -> tuple[list[Row], list[Row]]:
    """Timeline and postings, as a live projector writes them slice by slice."""
    topics = handled_topics(projection, PROVIDERS)
    states: dict[str, Any] = {}
    timeline: list[Row] = []
    postings: list[Row] = []
    for first, last in pairwise([0, *cuts, len(log)]):
        part = [e for e in log[first:last] if f"{e.provider} {e.topic}" in topics]
        accumulator = Accumulator(projection, PROVIDERS, states)
        accumulator.fold(part)
        batch = accumulator.batch(LogSlice(first, last, part)).settled(Shape(projection), timeline)
        states |= batch.changed
        timeline += batch.timeline
        postings += batch.postings
    return timeline, postings


def naive(projection: Projection[Any], log: Sequence[Sent]) -> list[tuple[Place, Change, Sent]]:
    """The distinct facts of a log."""
    found: list[tuple[Place, Change, Sent]] = []
    for index, sent in enumerate(log):
        if reference_model.projection_of(sent) != projection.name:
            continue
        if (change := said(sent)) is None:
            continue
        time = change.until or change.time or sent.received_at
        place = Place(time, change.deleted, reference_model.rank(change), index)
        known = [one for one in found if one[1].stream == change.stream]
        if not reference_model.repeats(change, place, known) and not repeats_what_is_past(
            projection, change, place, known
        ):
            found.append((place, change, sent))
    return found


def repeats_what_is_past(
    projection: Projection[Any],
    change: Change,
    place: Place,
    known: Sequence[tuple[Place, Change, Sent]],
) -> bool:
    """It says the same of a time that decides nothing any more, as far as the timeline goes."""
    deciding = {max(at for at, _, _ in known)} if known else set()
    for field in given_by(change):
        deciding |= {max(givers)} if (givers := givers_of(field, known)) else set()
    if (
        change.time is None
        or place.time in {at.time for at in deciding}
        or place > max(deciding, default=place)
    ):
        return False
    return any(
        (at.time, at.deleted, at.rank) == (place.time, place.deleted, place.rank)
        and other.time is not None
        and other.created == change.created
        and kept(projection, other) == kept(projection, change)
        for at, other, _ in known
    )


def given_by(change: Change) -> set[str]:
    return {*change.given, *(["updated_at"] if change.time else [])}


def givers_of(field: str, known: Sequence[tuple[Place, Change, Sent]]) -> list[Place]:
    return [at for at, change, _ in known if field in given_by(change)]


def kept(projection: Projection[Any], change: Change) -> Json:
    assert projection.timeline is not None
    return {
        name: change.given[name] for name in projection.timeline.columns if name in change.given
    }


def states_at(
    projection: Projection[Any],
    facts: Sequence[tuple[Place, Change, Sent]],
    time: datetime,
    position: int,
) -> dict[str, Json]:
    """What was known at a position of a time, by stream."""
    streams: dict[str, list[tuple[Place, Change, Sent]]] = defaultdict(list)
    for place, change, sent in sorted(facts, key=lambda one: one[0]):
        if place.time <= time and place.position < position:
            streams[change.stream].append((place, change, sent))
    fields = reference_model.FIELDS[projection.name]
    return {stream: reference_model.state_of(fields, known) for stream, known in streams.items()}


def totals_of(projection: Projection[Any], states: dict[str, Json]) -> dict[tuple[Any, ...], Any]:
    assert projection.total is not None
    found: dict[tuple[Any, ...], Any] = defaultdict(int)
    for state in states.values():
        if state["deleted_at"] is None and state[projection.total.amount] is not None:
            found[tuple(state[name] for name in projection.total.by)] += state[
                projection.total.amount
            ]
    return {by: amount for by, amount in found.items() if amount}


def posted_at(postings: Sequence[Row], time: datetime, position: int) -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = defaultdict(int)
    for _, of_position, _, effective_at, *by, amount in postings:
        if effective_at <= time and of_position <= position:
            found[tuple(by)] += amount
    return {by: amount for by, amount in found.items() if amount}


@pytest.mark.parametrize("name", KEPT)
@settings(max_examples=60)
@given(deliveries=logs(), data=st.data())
def test_what_was_known_at_any_position_of_any_time_is_a_naive_fold(
    name: str, deliveries: list[Sent], data: st.DataObject
) -> None:
    projection = PROJECTIONS[name]
    sent = [of_tenant(delivery, 1) for delivery in deliveries]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    timeline, postings = written(projection, log_of(sent), cuts)
    facts = naive(projection, sent)
    assert {row[POSITION] for row in timeline} == {place.position + 1 for place, _, _ in facts}
    assert projection.timeline is not None
    shape = Shape(projection)
    for position in range(len(sent) + 1):
        for time in {place.time for place, _, _ in facts}:
            states = states_at(projection, facts, time, position)
            for stream in {change.stream for _, change, _ in facts}:
                rows = [row for row in timeline if row[STREAM] == stream]
                values, deleted = known_at(shape, rows, time, position)
                if stream in states:
                    state = states[stream]
                    assert deleted == (state["deleted_at"] is not None)
                    assert values == tuple(state[each] for each in projection.timeline.columns)
                else:
                    assert (values, deleted) == shape.nothing
            if projection.total is not None:
                assert posted_at(postings, time, position) == totals_of(projection, states)


def in_doubt(projection: Projection[Any], log: Sequence[Sent]) -> set[str]:
    """The streams in which two facts of one time differ in nothing that timelines keep: see decision 17."""
    found: dict[tuple[str, datetime, str], list[Change]] = defaultdict(list)
    for sent in log:
        if (change := said(sent)) is not None and (time := change.until or change.time):
            found[change.stream, time, str(kept(projection, change))].append(change)
    return {
        stream
        for (stream, _, _), alike in found.items()
        if any(one.given != alike[0].given for one in alike)
    }


def known_in(
    projection: Projection[Any], log: Sequence[Sent], streams: set[str], times: Sequence[datetime]
) -> list[tuple[dict[str, Snapshot], dict[tuple[Any, ...], Any]]]:
    """What is known at last of some streams at each of these times, and the totals."""
    timeline, postings = written(projection, log_of(log), [len(log) // 2])
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in timeline:
        rows[row[STREAM]].append(row)
    posted = [row for row in postings if row[STREAM] in streams]
    shape = Shape(projection)
    return [
        (
            {stream: known_at(shape, rows[stream], time, len(log)) for stream in streams},
            posted_at(posted, time, len(log)),
        )
        for time in times
    ]


@pytest.mark.parametrize("name", KEPT)
@settings(max_examples=100)
@given(deliveries=logs(), seed=st.integers(0, 2**32))
def test_any_two_orders_that_agree_where_no_time_decides_give_equal_timelines(
    name: str, deliveries: list[Sent], seed: int
) -> None:
    projection = PROJECTIONS[name]
    sent = [of_tenant(delivery, 1) for delivery in deliveries]
    changes = [change for one in sent if (change := said(one)) is not None]
    streams = {change.stream for change in changes} - in_doubt(projection, sent)
    times = [one.received_at for one in sent]
    times += [time for change in changes for time in (change.until, change.time) if time]
    other = another_order(sent, random.Random(seed))
    assert known_in(projection, sent, streams, times) == known_in(projection, other, streams, times)


CARDS = PROJECTIONS["gift_cards"]


def fact(position: int, second: int, balance: int, kind: str = "change") -> Row:
    time = NOON + timedelta(seconds=second)
    return ("s", position, NOON, time, False, 0, kind, balance, "EUR", None)


def test_many_facts_that_all_come_late_cost_little_each() -> None:
    steps = 0

    class Counting(Shape):
        def after(self, known: Snapshot, row: Row) -> Snapshot:
            nonlocal steps
            steps += 1
            return super().after(known, row)

    count = 10_000
    late = [Late(fact(n + 2, count - n, n), tie=False) for n in range(count)]
    rows, postings = settle(Counting(CARDS), [fact(1, count + 1, 5)], late)
    assert len(rows) == count
    assert steps < 5 * count
    assert posted_at(postings, NOON + timedelta(days=1), count + 2) == {}
    assert posted_at(postings, NOON + timedelta(seconds=3), count + 2) == {("EUR",): count - 3}


def test_a_late_fact_corrects_what_its_successors_posted() -> None:
    rows, postings = settle(
        Shape(CARDS), [fact(1, 10, 100), fact(2, 30, 70)], [Late(fact(3, 20, 90), tie=False)]
    )
    assert [key_of(row)[2] for row in rows] == [3]
    assert [((row[EFFECTIVE_AT] - NOON).seconds, *row[4:]) for row in postings] == [
        (20, "EUR", -10),
        (30, "EUR", 10),
    ]


def test_a_late_fact_that_says_what_was_said_of_its_time_adds_nothing() -> None:
    known = [fact(1, 10, 100), fact(2, 30, 70)]
    assert settle(Shape(CARDS), known, [Late(fact(3, 10, 100), tie=False)]) == ([], [])
    rows, postings = settle(Shape(CARDS), known, [Late(fact(3, 10, 100), tie=True)])
    assert (len(rows), postings) == (1, [])
