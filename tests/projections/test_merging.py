"""The state of a thing follows from what was said of it, not from the order in which that came."""

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.fold.folding import fold
from eventstore.fold.projection import Projection
from eventstore.log.events import Event
from projections.fast_merging import FastMerger
from tests.support import on_record, reference_model
from tests.support.generated_deliveries import PROVIDERS, logs, of_tenant, to_event
from tests.support.live_fold import PROJECTIONS, shown
from tests.support.orders import another_order
from tests.support.reference_model import Json, Sent

MERGERS: dict[str, FastMerger[Any]] = {
    name: projection.judge.__self__  # type: ignore[union-attr]
    for name, projection in PROJECTIONS.items()
}


def log_of(deliveries: Sequence[Sent]) -> list[Event]:
    """On record; whatever its position, a delivery is recorded when it was received."""
    return [on_record(to_event(sent), n, sent.received_at) for n, sent in enumerate(deliveries, 1)]


def states_of(projection: Projection[Any], log: Sequence[Event]) -> dict[str, Json]:
    states: dict[str, Any] = {}
    for event in log:
        one = fold(projection, PROVIDERS, states.get(event.stream), event)
        if one.state is not None:
            states[event.stream] = one.state
    return {stream: shown(state) for stream, state in states.items()}


@settings(max_examples=400)
@given(deliveries=logs(), seed=st.integers(0, 2**32))
def test_any_two_orders_that_agree_where_no_time_decides_give_equal_states(
    deliveries: list[Sent], seed: int
) -> None:
    # Two tenants, and each delivery once: of a repeat the order does not matter either, but which is the repeat does.
    sent = [of_tenant(delivery, 1) for delivery in deliveries]
    other = another_order(sent, random.Random(seed))
    for name, projection in PROJECTIONS.items():
        states = states_of(projection, log_of(sent))
        assert states_of(projection, log_of(other)) == states
        assert reference_model.expect(name, other).states == states


@settings(max_examples=300)
@given(logs())
def test_the_straight_lines_are_the_general_rules(deliveries: list[Sent]) -> None:
    log = log_of([of_tenant(delivery, 1) for delivery in deliveries])
    for name, projection in PROJECTIONS.items():
        states: dict[str, Any] = {}
        for event in log:
            before = states.get(event.stream)
            one = fold(projection, PROVIDERS, before, event)
            if one.judgement is None:
                continue
            fact: Any = PROVIDERS[event.provider].decode(event)
            general, _ = MERGERS[name].fold(before, fact, event)
            assert one.state == general
            assert (one.state is before) == (general is before)
            states[event.stream] = one.state


@settings(max_examples=200)
@given(logs())
def test_a_state_is_the_same_after_it_was_stored(deliveries: list[Sent]) -> None:
    log = log_of([of_tenant(delivery, 1) for delivery in deliveries])
    for projection in PROJECTIONS.values():
        kept: dict[str, Any] = {}
        read: dict[str, Any] = {}
        for event in log:
            for states in (kept, read):
                one = fold(projection, PROVIDERS, states.get(event.stream), event)
                if one.state is not None:
                    states[event.stream] = one.state
            read = {
                stream: msgspec.json.decode(msgspec.json.encode(state), type=type(state))
                for stream, state in read.items()
            }
        assert kept == read


@pytest.mark.parametrize("name", PROJECTIONS)
def test_whole_snapshots_in_order_cost_no_memory(name: str) -> None:
    (type_,) = PROJECTIONS[name].handles
    merger = MERGERS[name]
    events = log_of(
        [Sent("loopz", "gift-card.updated", "0", "p-1", {"id": "x-1"}, time) for time in TIMES]
    )
    state: Any = None
    for event in events:
        own = dict.fromkeys(merger.names[3:])
        own |= {"phase": "created"} if "phase" in own else {}
        fact: Any = type_(
            *("loopz", "0", "p-1", "x-1", event.received_at, event.received_at, event.received_at),
            **own,
        )
        state = PROJECTIONS[name].evolve(state, fact, event)
        assert (state.merge, state.effective_at) == (None, None)


TIMES = [datetime.fromisoformat(f"2026-01-01T12:00:0{n}Z") for n in range(4)]
