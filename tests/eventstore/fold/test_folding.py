"""Folding: whoever folds a history, and in however many parts, writes the same."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.fold.failures import MOST_STREAMS, Failing, FailureRows
from eventstore.fold.folding import Accumulator, NewRows, fold, handled_topics, handles
from eventstore.fold.projection import Place, Projection
from eventstore.fold.refiling import find_stream
from eventstore.fold.timeline import STREAM, Row, Shape, late_by_stream, settle
from eventstore.log.events import Event, LogSlice
from projections import load_projections
from projections.gift_cards import PROJECTION, GiftCard
from providers import load_providers
from providers.facts import GiftCardFact
from tests.support import new_event, on_record
from tests.support.generated_deliveries import logs, misfiled_logs, of_tenant, to_log
from tests.support.reference_model import Sent

PROVIDERS = load_providers({})
PROJECTIONS = load_projections()


class Written(NamedTuple):
    """Everything that a fold of a history writes."""

    states: dict[str, tuple[int, Any]]
    timeline: list[Row]
    postings: list[Row]
    quarantine: list[tuple[int, str, str]]
    folded: int
    quarantined: int
    failing: Failing


def one_by_one(projection: Projection[Any], events: Sequence[Event]) -> Written:
    """Fold event by event, as the history of a stream does."""
    states: dict[str, tuple[int, Any]] = {}
    rows: dict[str, list[Row]] = {}
    postings: list[Row] = []
    quarantine: list[tuple[int, str, str]] = []
    count = 0
    failures = FailureRows()
    for event in events:
        stream = find_stream(PROVIDERS, event)
        before = states[stream][1] if stream in states else None
        one = fold(projection, PROVIDERS, before, event)
        if one.error is not None:
            quarantine.append((event.position, stream, one.error))
            failures.add(f"{event.provider} {event.topic}", stream)
            continue
        count += 1
        failures.end(f"{event.provider} {event.topic}")
        if one.state != before:
            states[stream] = (event.position, one.state)
        if (recorded := one.recorded) is not None:
            known = rows.setdefault(stream, [])
            new, posted = [recorded.row], recorded.postings
            if recorded.late is not None:
                new, posted = settle(Shape(projection), known, [recorded.late])
            known += new
            postings += posted
    timeline = [row for known in rows.values() for row in known]
    counts = count, len(quarantine), failures.to_failing()
    return Written(
        states, sorted(timeline, key=str), sorted(postings, key=str), quarantine, *counts
    )


def as_a_rebuild(
    projection: Projection[Any], events: Sequence[Event], cuts: Sequence[int]
) -> Written:
    """Fold with one accumulator, which gives its rows away now and then, and its states at the end."""
    accumulator = Accumulator(projection, PROVIDERS)
    written = NewRows([], [], [])
    for first, last in pairwise(cuts):
        accumulator.fold(events[first:last])
        new = accumulator.take_rows()
        written.timeline.extend(new.timeline)
        written.postings.extend(new.postings)
        written.quarantined.extend(new.quarantined)
    timeline, postings, quarantine = written
    for stream, late in late_by_stream(accumulator.late).items():
        known = [row for row in written.timeline if row[STREAM] == stream]
        late_rows, late_postings = settle(Shape(projection), known, late)
        timeline += late_rows
        postings += late_postings
    counts = accumulator.folded, accumulator.quarantined, accumulator.failures.to_failing()
    return Written(
        accumulator.changed,
        sorted(timeline, key=str),
        sorted(postings, key=str),
        quarantine,
        *counts,
    )


def as_the_live_projector(
    projection: Projection[Any], events: Sequence[Event], cuts: Sequence[int]
) -> Written:
    """Fold slice after slice of the log, each on the states that the one before left."""
    written = Written({}, [], [], [], 0, 0, {})
    shape = Shape(projection)
    for first, last in pairwise(cuts):
        part = events[first:last]
        after, through = (part[0].position - 1, part[-1].position) if part else (0, 0)
        accumulator = Accumulator(projection, PROVIDERS, written.states, written.failing)
        accumulator.fold(part)
        batch = accumulator.batch(LogSlice(after, through, list(part)))
        batch = batch.settled(shape, written.timeline)
        written = Written(
            {**written.states, **batch.changed},
            sorted([*written.timeline, *batch.timeline], key=str),
            sorted([*written.postings, *batch.postings], key=str),
            [*written.quarantine, *batch.quarantined],
            written.folded + batch.folded,
            written.quarantined + len(batch.quarantined),
            batch.failing,
        )
    return written


@settings(max_examples=150)
@given(deliveries=logs() | misfiled_logs(), data=st.data())
def test_live_and_rebuild_write_the_same_of_any_history_cut_anywhere(
    deliveries: list[Sent], data: st.DataObject
) -> None:
    log = to_log([of_tenant(delivery, 1) for delivery in deliveries])
    for projection in PROJECTIONS.values():
        topics = handled_topics(projection, PROVIDERS)
        events = [event for event in log if f"{event.provider} {event.topic}" in topics]
        inner = data.draw(st.lists(st.integers(0, len(events)), max_size=4))
        cuts = [0, *sorted(inner), len(events)]
        expected = one_by_one(projection, events)
        assert as_a_rebuild(projection, events, cuts) == expected
        assert as_the_live_projector(projection, events, cuts) == expected


def cards(*bodies: object) -> list[Event]:
    return [
        on_record(new_event("gift-card.updated", body), position)
        for position, body in enumerate(bodies, 1)
    ]


def copy_of(state: GiftCard | None, fact: GiftCardFact, _: Place) -> GiftCard:
    """Give back the state in a new object, unless it is the first."""
    if state is None:
        return GiftCard("loopz", "m-1", None, str(fact.id))
    return msgspec.structs.replace(state)


@pytest.mark.parametrize("write", [as_a_rebuild, as_the_live_projector])
@pytest.mark.parametrize("cuts", [[0, 3], [0, 1, 2, 3]])
def test_an_equal_state_in_another_object_is_no_change(write: Any, cuts: list[int]) -> None:  # noqa: ANN401
    projection = msgspec.structs.replace(PROJECTION, evolve=copy_of, judge=None, timeline=None)
    events = cards({"id": "a"}, {"id": "a"}, {"id": "a"})
    written = write(projection, events, cuts)
    assert {stream: position for stream, (position, _) in written.states.items()} == {
        "loopz/m-1/gift-card/a": 1
    }
    assert (written.folded, written.quarantined) == (3, 0)


def test_an_event_that_says_nothing_new_of_a_stream_changes_no_state_and_is_counted() -> None:
    accumulator = Accumulator(PROJECTION, PROVIDERS)
    accumulator.fold(cards({"id": "a", "balance": 1}, {"id": "a", "balance": 1}))
    assert [position for position, _ in accumulator.changed.values()] == [1]
    assert accumulator.folded == 2


TOPIC = "loopz gift-card.updated"


def bad(*ids: str, good: str = "") -> list[Event]:
    return cards(*({"id": id_, "balance": 1 if id_ == good else "x"} for id_ in ids))


def test_it_stops_behind_the_failure_that_reaches_the_limit() -> None:
    accumulator = Accumulator(PROJECTION, PROVIDERS, failing={TOPIC: ["loopz/m-1/gift-card/z"]})
    assert accumulator.fold(bad("a", "b", "c"), failure_limit=2) == TOPIC
    assert (accumulator.folded, accumulator.quarantined) == (0, 1)
    accumulator = Accumulator(PROJECTION, PROVIDERS)
    assert accumulator.fold(bad("a", "good", "c", "d", "e", good="good"), failure_limit=2) == TOPIC
    assert (accumulator.folded, accumulator.quarantined) == (1, 3)
    assert accumulator.last_error == "balance is not a whole number of cents."


def test_a_stream_that_fails_again_and_again_counts_once() -> None:
    accumulator = Accumulator(PROJECTION, PROVIDERS)
    assert accumulator.fold(bad(*["a"] * 50, "b"), failure_limit=3) is None
    assert accumulator.quarantined == 51
    assert accumulator.failures.to_failing() == {
        TOPIC: ["loopz/m-1/gift-card/a", "loopz/m-1/gift-card/b"]
    }


def test_of_an_excused_tenant_only_a_part_counts() -> None:
    rows = FailureRows({TOPIC: [f"loopz/m-1/gift-card/{n}" for n in range(500)]})
    assert rows.main_tenant(TOPIC) == "loopz/m-1/"
    assert rows.reaches(TOPIC, 100, ())
    assert not rows.reaches(TOPIC, 100, {"loopz/m-1/"})
    for n in range(10):
        assert not rows.reaches(TOPIC, 100, {"loopz/m-1/"})
        rows.add(TOPIC, f"loopz/m-{n + 2}/gift-card/1")
    assert rows.reaches(TOPIC, 100, {"loopz/m-1/"})
    rows.end(TOPIC)
    assert not rows


def test_a_row_remembers_a_bounded_number_of_streams() -> None:
    rows = FailureRows()
    for n in range(MOST_STREAMS + 10):
        rows.add(TOPIC, f"loopz/m-1/gift-card/{n}")
    assert len(rows.to_failing()[TOPIC]) == MOST_STREAMS


def test_rows_are_given_away_once() -> None:
    accumulator = Accumulator(PROJECTION, PROVIDERS)
    accumulator.fold(cards({"id": "a", "balance": 1}, {"id": "a", "balance": "x"}))
    timeline, postings, quarantine = accumulator.take_rows()
    assert (len(timeline), len(postings), len(quarantine)) == (1, 1, 1)
    assert accumulator.take_rows() == NewRows([], [], [])
    assert (accumulator.folded, accumulator.quarantined) == (1, 1)


def test_topics_of_other_facts_and_unknown_providers_are_not_handled() -> None:
    assert handles(PROJECTION, PROVIDERS, "loopz", "gift-card.updated")
    assert not handles(PROJECTION, PROVIDERS, "loopz", "location.updated")
    assert not handles(PROJECTION, PROVIDERS, "nobody", "gift-card.updated")
    assert "loopz gift-card.updated" in handled_topics(PROJECTION, PROVIDERS)
    assert fold(PROJECTION, PROVIDERS, None, on_record(new_event(), 1)).verdict == "ignored"
