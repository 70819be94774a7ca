"""What a gift card is after its facts, in whatever order and however often they come."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.gift_cards import GiftCard, evolve
from providers.facts import GiftCardFact
from tests.support import NOON
from tests.support.generated_deliveries import MOMENTS, PROGRAMS, card, some_of, to_log
from tests.support.live_fold import PROJECTIONS, folded, shown
from tests.support.reference_model import Json


def times_of_facts() -> st.SearchStrategy[dict[str, Any]]:
    """A fact's times; a deletion may give its own, or none."""
    some = st.sampled_from(MOMENTS)
    update = some_of({"updated_at": some})
    deletion = some_of({"updated_at": some, "deleted_at": some}).map(
        lambda times: {"deleted": True, **times}
    )
    return st.tuples(some, update | deletion).map(
        lambda drawn: {"received_at": drawn[0]} | drawn[1]
    )


def card_fact(**values: Any) -> GiftCardFact:  # noqa: ANN401 - whatever a fact holds
    """What an event says of the one card."""
    common = {"provider": "loopz", "merchant_id": "m-1", "program_id": "p-1", "id": "x-1"}
    return GiftCardFact(**(common | {"received_at": NOON} | values))


@st.composite
def facts(draw: st.DrawFn) -> GiftCardFact:
    """What an event may say of a card: each field given, null or left out."""
    fields = some_of(
        {
            "status": st.sampled_from(["ACTIVE", "INACTIVE", None]),
            "balance": st.sampled_from([0, 1, None]),
            "created_at": st.sampled_from([*MOMENTS, None]),
            "program_id": PROGRAMS,
        }
    )
    return card_fact(**draw(fields), **draw(times_of_facts()))


class Recorded(NamedTuple):
    """Where an event stands."""

    position: int
    recorded_at: datetime


def state_after(given_facts: Sequence[GiftCardFact]) -> GiftCard | None:
    state = None
    for position, fact in enumerate(given_facts, 1):
        state = evolve(state, fact, Recorded(position, fact.received_at))
    return state


@given(st.lists(facts(), max_size=6), facts())
def test_folding_a_fact_twice_is_folding_it_once(
    before: list[GiftCardFact], fact: GiftCardFact
) -> None:
    once = state_after([*before, fact])
    later = Recorded(len(before) + 2, fact.received_at)
    assert once is not None
    assert shown(evolve(once, fact, later)) == shown(once)


@st.composite
def whole_facts(draw: st.DrawFn) -> list[GiftCardFact]:
    """Facts that give every field, each at a time of its own, in any order."""
    said = []
    for n, time in enumerate(draw(st.permutations(MOMENTS))):
        fields = dict.fromkeys(("type", "status", "currency", "code", "gan"), str(n))
        times: dict[str, object] = {"created_at": NOON, "updated_at": time}
        if deleted := draw(st.booleans()):
            # The snapshot of a deletion may carry an older time, or none.
            earlier = [None, *(moment for moment in MOMENTS if moment <= time)]
            times |= {"updated_at": draw(st.sampled_from(earlier)), "deleted_at": time}
        said.append(card_fact(balance=n, deleted=deleted, **fields, **times))
    return said


@given(whole_facts())
def test_facts_of_distinct_times_that_give_every_field_converge_in_any_order(
    said: list[GiftCardFact],
) -> None:
    in_order = sorted(said, key=lambda fact: fact.deleted_at or fact.updated_at or NOON)
    state = state_after(said)
    assert state is not None
    again = state_after(in_order)
    newest = state_after(in_order[-1:])
    deleted_at = max((fact.deleted_at for fact in said if fact.deleted_at), default=None)
    assert again is not None
    assert newest is not None
    assert shown(state) == shown(again)
    assert shown(state) == shown(newest) | {"deleted_at": deleted_at}


CARD_TIMES: Mapping[str, Callable[[datetime], Json]] = {
    "only deleted_on": lambda time: {"deleted_on": time.isoformat()},
    "deleted_on after updated_on": lambda time: {
        "deleted_on": time.isoformat(),
        "updated_on": MOMENTS[0].isoformat(),
    },
}


@pytest.mark.parametrize("times", CARD_TIMES.values(), ids=CARD_TIMES)
def test_a_deletion_that_arrives_after_a_newer_update_deletes(
    times: Callable[[datetime], Json],
) -> None:
    update = card("updated", updated_on=MOMENTS[3].isoformat())
    deletion = card("deleted", **times(MOMENTS[2]))
    for log in ([update, deletion], [deletion, update]):
        states = folded(PROJECTIONS["gift_cards"], to_log(log)).states
        assert states["loopz/0/gift-card/x-1"]["deleted_at"] == MOMENTS[2]


def test_a_deletion_counts_from_when_it_says_it_deleted_not_from_the_last_update_before() -> None:
    update = card("updated", updated_on=MOMENTS[2].isoformat())
    deletion = card("deleted", **CARD_TIMES["deleted_on after updated_on"](MOMENTS[4]))
    states = folded(PROJECTIONS["gift_cards"], to_log([update, deletion])).states
    assert states["loopz/0/gift-card/x-1"]["deleted_at"] == MOMENTS[4]
