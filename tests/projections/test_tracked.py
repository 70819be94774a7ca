"""The rules by which a fact meets a state: given facts, when another comes, then the state is so."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from eventstore.fold.projection import Projection
from projections import load_projections
from projections.gift_cards import GiftCard, evolve
from projections.tracked import Tracked
from providers.facts import GiftCardFact, Given


def at(hour: int) -> datetime:
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def fact(
    *,
    balance: Given[int] = UNSET,
    status: Given[str] = UNSET,
    updated: int | None = None,
    deleted: bool = False,
    deleted_at: int | None = None,
    received: int = 23,
) -> GiftCardFact:
    return GiftCardFact(
        provider="loopz",
        merchant_id="m-1",
        program_id="p-1",
        id="g-1",
        received_at=at(received),
        updated_at=None if updated is None else at(updated),
        deleted=deleted,
        deleted_at=None if deleted_at is None else at(deleted_at),
        balance=balance,
        status=status,
    )


def given(*facts: GiftCardFact) -> GiftCard:
    state = None
    for each in facts:
        state = evolve(state, each)
    assert state is not None
    return state


def test_an_absent_field_keeps_its_value() -> None:
    state = given(fact(balance=500, status="ACTIVE"), fact(balance=300))
    assert (state.balance, state.status) == (300, "ACTIVE")


def test_a_null_field_clears_its_value() -> None:
    assert given(fact(status="ACTIVE"), fact(status=None)).status is None


def test_an_older_fact_is_stale_and_gives_back_the_very_state() -> None:
    state = given(fact(balance=300, updated=5))
    assert evolve(state, fact(balance=500, updated=4)) is state


def test_a_fact_of_the_same_time_wins_by_coming_later() -> None:
    assert given(fact(balance=500, updated=5), fact(balance=300, updated=5)).balance == 300


def test_a_fact_without_a_time_wins_by_coming_later_and_leaves_the_clock() -> None:
    state = given(fact(balance=500, updated=5), fact(balance=300))
    assert (state.balance, state.updated_at) == (300, at(5))
    assert evolve(state, fact(balance=900, updated=4)) is state


def test_a_timed_fact_after_an_untimed_one_is_applied() -> None:
    assert given(fact(balance=500), fact(balance=300, updated=1)).balance == 300


def test_a_deletion_keeps_the_last_known_state() -> None:
    state = given(fact(balance=500, updated=5), fact(deleted=True, updated=6))
    assert (state.balance, state.deleted_at) == (500, at(6))


@pytest.mark.parametrize(
    ("deletion", "expected"),
    [
        (fact(deleted=True, updated=6, deleted_at=7, received=8), 7),
        (fact(deleted=True, updated=6, received=8), 6),
        (fact(deleted=True, received=8), 8),
    ],
)
def test_a_deletion_is_dated_by_the_best_time_there_is(
    deletion: GiftCardFact, expected: int
) -> None:
    assert given(fact(updated=5), deletion).deleted_at == at(expected)


@pytest.mark.parametrize("late", [4, 5, 6, None])
def test_an_update_that_is_not_after_the_deletion_cannot_bring_the_card_back(
    late: int | None,
) -> None:
    state = given(fact(balance=500, updated=5), fact(deleted=True, updated=6))
    assert evolve(state, fact(balance=900, updated=late)) is state


def test_an_update_from_before_an_undated_deletion_arrived_cannot_bring_the_card_back() -> None:
    state = given(fact(balance=500, updated=5), fact(deleted=True, received=8))
    assert evolve(state, fact(balance=900, updated=7)) is state


def test_an_update_after_the_deletion_brings_the_card_back() -> None:
    state = given(fact(updated=5), fact(deleted=True, updated=6), fact(balance=1, updated=7))
    assert (state.balance, state.deleted_at) == (1, None)


def test_a_deletion_older_than_the_state_is_stale() -> None:
    state = given(fact(balance=500, updated=5))
    assert evolve(state, fact(deleted=True, updated=4)) is state


def test_an_undated_deletion_that_is_repeated_does_not_move_the_time_of_deletion() -> None:
    state = given(fact(updated=5), fact(deleted=True, received=8))
    assert evolve(state, fact(deleted=True, received=9)) is state


def test_a_deletion_may_be_the_first_that_is_heard_of_a_thing() -> None:
    state = given(fact(deleted=True, received=8))
    assert (state.id, state.deleted_at) == ("g-1", at(8))


FIELDS = [
    (projection, field.name)
    for projection in load_projections().values()
    for field in msgspec.structs.fields(projection.state)
    if field.name not in Tracked.__struct_fields__
]


@pytest.mark.parametrize(
    ("projection", "name"), FIELDS, ids=lambda value: getattr(value, "name", value)
)
def test_each_field_of_a_fact_goes_to_the_field_of_its_name(
    projection: Projection[Any], name: str
) -> None:
    (type_,) = projection.handles
    said: Any = type_("loopz", "m-1", "p-1", "g-1", at(23), **{name: "said"})
    nothing: Any = type_("loopz", "m-1", "p-1", "g-1", at(23))
    state = projection.evolve(None, said)
    assert msgspec.structs.asdict(state) == msgspec.structs.asdict(
        projection.state("loopz", "m-1", "p-1", "g-1", **{name: "said"})
    )
    assert projection.evolve(state, nothing) == state
    assert projection.evolve(projection.evolve(None, nothing), said) == state


def test_a_thing_stays_whose_it_is_and_keeps_its_programme() -> None:
    given_first, said_later = fact(), msgspec.structs.replace(fact(), program_id=None)
    assert given(given_first, said_later).program_id == "p-1"
    assert given(said_later, given_first).program_id == "p-1"
    state = given(given_first)
    assert (state.provider, state.merchant_id, state.id) == ("loopz", "m-1", "g-1")


def test_every_state_can_be_made_from_its_columns_by_position() -> None:
    assert GiftCard("loopz", "m-1", None, "g-1", at(1)) == GiftCard(
        provider="loopz", merchant_id="m-1", program_id=None, id="g-1", created_at=at(1)
    )
    assert issubclass(GiftCard, Tracked)
