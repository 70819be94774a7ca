"""The rules by which a fact meets a state: given facts, when another comes, then the state is so."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import UNSET

from eventstore.fold.projection import Judgement, Projection
from projections import load_projections
from projections.gift_cards import PROJECTION, GiftCard, evolve
from projections.known import MOST_REMEMBERED
from projections.tracked import Tracked
from providers.facts import GiftCardFact, Given
from tests.support.live_fold import shown


def at(hour: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)


class Recorded(NamedTuple):
    """Where an event stands."""

    position: int
    recorded_at: datetime


def fact(  # noqa: PLR0913 - by name, all of them
    *,
    balance: Given[int] = UNSET,
    status: Given[str] = UNSET,
    updated: float | None = None,
    created: bool = False,
    deleted: bool = False,
    deleted_at: float | None = None,
    received: float = 23,
) -> GiftCardFact:
    """What is said of the one card; times are hours."""
    return GiftCardFact(
        provider="loopz",
        merchant_id="m-1",
        program_id="p-1",
        id="g-1",
        received_at=at(received),
        updated_at=None if updated is None else at(updated),
        created=created,
        deleted=deleted,
        deleted_at=None if deleted_at is None else at(deleted_at),
        balance=balance,
        status=status,
    )


def steps(*facts: GiftCardFact) -> list[tuple[GiftCard | None, Judgement]]:
    """Each state and what became of each fact, which is recorded when it is received."""
    assert PROJECTION.judge is not None
    state: GiftCard | None = None
    found: list[tuple[GiftCard | None, Judgement]] = []
    for position, each in enumerate(facts, 1):
        place = Recorded(position, each.received_at)
        judgement = PROJECTION.judge(state, each, place)
        state = evolve(state, each, place)
        found.append((state, judgement))
    return found


def given(*facts: GiftCardFact) -> GiftCard:
    state = steps(*facts)[-1][0]
    assert state is not None
    return state


def verdicts(*facts: GiftCardFact) -> list[str]:
    return [judgement.verdict for _, judgement in steps(*facts)]


def changed_nothing(*facts: GiftCardFact) -> bool:
    """Whether the last fact gave back the very state."""
    (before, _), (after, _) = steps(*facts)[-2:]
    return after is before


def test_an_absent_field_keeps_its_value() -> None:
    state = given(fact(balance=500, status="ACTIVE"), fact(balance=300))
    assert (state.balance, state.status) == (300, "ACTIVE")


def test_a_null_field_clears_its_value() -> None:
    assert given(fact(status="ACTIVE"), fact(status=None)).status is None


def test_an_older_fact_is_stale_and_gives_back_the_very_state() -> None:
    facts = fact(balance=300, updated=5), fact(balance=500, updated=4)
    assert changed_nothing(*facts)
    assert verdicts(*facts) == ["applied", "stale"]


def test_an_older_fact_sets_what_nothing_newer_has_given() -> None:
    facts = fact(balance=300, updated=5), fact(balance=500, status="ACTIVE", updated=4)
    state = given(*facts)
    assert (state.balance, state.status, state.updated_at) == (300, "ACTIVE", at(5))
    assert verdicts(*facts) == ["applied", "late"]


def test_an_older_fact_does_not_set_what_a_newer_one_has_cleared() -> None:
    facts = fact(status=None, updated=5), fact(status="ACTIVE", updated=4)
    assert given(*facts).status is None
    assert verdicts(*facts) == ["applied", "stale"]


def test_of_late_facts_the_newest_sets_a_field() -> None:
    late = [fact(status=str(hour), updated=hour) for hour in (2, 4, 3)]
    assert given(fact(balance=1, updated=5), *late).status == "4"


def test_a_fact_of_the_same_time_wins_by_coming_later() -> None:
    facts = fact(balance=500, updated=5), fact(balance=300, updated=5)
    assert given(*facts).balance == 300
    assert verdicts(*facts) == ["applied", "tie"]


def test_a_repeat_of_one_time_does_not_put_a_balance_back() -> None:
    one, other = fact(balance=500, updated=5), fact(balance=300, updated=5)
    facts = one, other, one, other, one
    assert given(*facts).balance == 300
    assert verdicts(*facts) == ["applied", "tie", "duplicate", "duplicate", "duplicate"]


def test_a_repeat_is_known_when_only_some_of_its_fields_still_count() -> None:
    one, other = fact(status="A", updated=5), fact(status="B", updated=5)
    facts = fact(status="A", balance=1, updated=5), fact(balance=2, updated=6), other
    assert given(*facts, facts[0]).status == "B"
    assert given(*facts, one).status == "A"
    assert verdicts(*facts, facts[0])[-1] == "duplicate"


def test_what_was_said_before_and_after_another_change_is_said_three_times() -> None:
    states = [fact(status=status, received=hour) for hour, status in enumerate("ABA")]
    assert verdicts(*states) == ["applied", "applied", "applied"]
    assert given(*states).status == "A"
    # Three of one batch were recorded at one time.
    at_once = [fact(status=status) for status in "ABA"]
    assert verdicts(*at_once) == ["applied", "applied", "applied"]
    assert given(*at_once).status == "A"


def test_what_is_said_twice_in_a_row_without_a_time_counts_since_the_first_time() -> None:
    facts = [fact(status="A", received=hour) for hour in (1, 3)]
    assert verdicts(*facts) == ["applied", "duplicate"]
    assert given(*facts, fact(status="B", updated=2)).status == "B"


def test_a_fact_without_a_time_counts_when_it_was_recorded() -> None:
    state = given(fact(balance=500, updated=5), fact(balance=300, received=8))
    assert (state.balance, state.updated_at) == (300, at(5))
    facts = fact(balance=500, updated=5), fact(balance=300, received=8), fact(balance=9, updated=7)
    assert given(*facts).balance == 300
    assert [(j.recorded, j.effective_at) for _, j in steps(*facts)] == [
        (False, at(5)),
        (True, at(8)),
        (False, at(7)),
    ]
    assert given(*facts, fact(balance=10, updated=9)).balance == 10


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


@pytest.mark.parametrize("late", [4, 5, 6, 7, None])
def test_an_update_does_not_bring_a_card_back(late: int | None) -> None:
    facts = (
        fact(balance=500, updated=5),
        fact(deleted=True, updated=6),
        fact(balance=9, updated=late),
    )
    assert given(*facts).deleted_at == at(6)
    after_deletion = late is None or late > 6
    assert steps(*facts)[-1][1].after_deletion == after_deletion
    assert given(*facts).balance == (500 if late == 4 else 9)


def test_a_deletion_that_comes_after_a_newer_update_deletes() -> None:
    facts = fact(balance=500, updated=5), fact(deleted=True, updated=4)
    assert (given(*facts).balance, given(*facts).deleted_at) == (500, at(4))
    assert verdicts(*facts) == ["applied", "late"]


def test_of_two_deletions_the_newer_one_counts() -> None:
    deletions = [fact(deleted=True, updated=hour) for hour in (6, 8, 7)]
    assert given(*deletions).deleted_at == at(8)


def test_a_deletion_counts_as_the_end_of_its_second() -> None:
    update = fact(balance=1, updated=6 + 0.5 / 3600)
    deletion = msgspec.structs.replace(
        fact(deleted=True, updated=6), deleted_by=at(6 + 1 / 3600) - timedelta(microseconds=1)
    )
    for facts in ((update, deletion), (deletion, update)):
        assert given(*facts).deleted_at == at(6)
        assert not steps(*facts)[-1][1].after_deletion


def test_at_one_time_a_deletion_comes_last() -> None:
    creation, deletion = fact(created=True, updated=6), fact(deleted=True, updated=6)
    assert given(creation, deletion).deleted_at == at(6)
    assert given(deletion, creation).deleted_at == at(6)


def test_a_creation_after_the_deletion_brings_a_card_back_with_nothing_of_before() -> None:
    before = fact(balance=500, status="ACTIVE", created=True, updated=5)
    facts = before, fact(deleted=True, updated=6), fact(status="NEW", created=True, updated=7)
    for order in permutations(facts):
        state = given(*order)
        assert (state.balance, state.status, state.deleted_at) == (None, "NEW", None)


def test_what_was_known_before_the_deletion_comes_back_if_there_was_another_creation() -> None:
    facts = (
        fact(deleted=True, updated=2),
        fact(balance=7, updated=4),
        fact(status="NEW", created=True, updated=5),
        fact(created=True, updated=3),
    )
    for order in permutations(facts):
        state = given(*order)
        assert (state.balance, state.status, state.deleted_at) == (7, "NEW", None)


def test_a_creation_of_a_card_that_is_there_takes_nothing_away() -> None:
    facts = fact(balance=500, created=True, updated=5), fact(status="A", created=True, updated=6)
    for order in permutations(facts):
        assert (given(*order).balance, given(*order).status) == (500, "A")


def test_a_creation_not_later_than_the_deletion_changes_nothing() -> None:
    facts = fact(balance=5, deleted=True, updated=6), fact(created=True, updated=5)
    assert given(*facts).deleted_at == at(6)
    assert verdicts(*facts) == ["applied", "stale"]


def test_an_undated_deletion_that_is_repeated_does_not_move_the_time_of_deletion() -> None:
    facts = fact(updated=5), fact(deleted=True, received=8), fact(deleted=True, received=9)
    assert changed_nothing(*facts)
    assert verdicts(*facts)[-1] == "duplicate"


def test_a_deletion_may_be_the_first_that_is_heard_of_a_thing() -> None:
    state = given(fact(deleted=True, received=8))
    assert (state.id, state.deleted_at) == ("g-1", at(8))


def test_more_facts_of_one_time_than_are_remembered_take_no_more_room() -> None:
    facts = [fact(balance=n, updated=5) for n in range(MOST_REMEMBERED + 50)]
    creations = [
        fact(created=n % 2 == 0, deleted=n % 2 == 1, updated=6 + n)
        for n in range(4 * MOST_REMEMBERED)
    ]
    state = given(*facts, *creations)
    assert state.merge is not None
    assert len(state.merge) < 100 * MOST_REMEMBERED
    assert verdicts(*facts, facts[-1])[-1] == "duplicate"


# A state of a generation that older code made: of its facts no keys are known until a rebuild.
OLD = GiftCard("loopz", "m-1", "p-1", "g-1", None, at(5), None, type="DIGITAL", balance=500)
PLACE = Recorded(9, at(23))


def test_a_newer_fact_is_applied_to_a_state_of_older_code() -> None:
    state = evolve(OLD, fact(balance=300, updated=6), PLACE)
    assert (state.type, state.balance, state.updated_at) == ("DIGITAL", 300, at(6))


def test_an_older_fact_does_not_touch_a_state_of_older_code() -> None:
    assert evolve(OLD, fact(balance=300, status="A", updated=4), PLACE) is OLD


def test_a_fact_of_the_time_of_a_state_of_older_code_wins() -> None:
    assert evolve(OLD, fact(balance=300, updated=5), PLACE).balance == 300


def test_a_state_of_older_code_without_a_time_gives_way_to_any_fact() -> None:
    old = msgspec.structs.replace(OLD, updated_at=None)
    assert evolve(old, fact(balance=300, updated=4), PLACE).balance == 300
    assert evolve(old, fact(balance=300), PLACE).balance == 300


def test_what_older_code_deleted_stays_deleted_until_it_is_created_again() -> None:
    old = msgspec.structs.replace(OLD, deleted_at=at(5))
    updated = evolve(old, fact(balance=300, updated=6), PLACE)
    assert (updated.balance, updated.deleted_at) == (300, at(5))
    again = evolve(updated, fact(balance=300, updated=7), PLACE)
    assert again.deleted_at == at(5)
    created = evolve(again, fact(balance=1, created=True, updated=8), PLACE)
    assert (created.type, created.balance, created.deleted_at) == (None, 1, None)


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
    common = "loopz", "m-1", "p-1", "g-1", at(23)
    first, second = Recorded(1, at(23)), Recorded(2, at(24))
    said: Any = type_(*common, **{name: "said"})
    nothing: Any = type_(*common)
    state = projection.evolve(None, said, first)
    assert shown(state) == shown(projection.state("loopz", "m-1", "p-1", "g-1", **{name: "said"}))
    assert shown(projection.evolve(state, nothing, second)) == shown(state)
    empty = projection.evolve(None, nothing, first)
    assert shown(projection.evolve(empty, said, second)) == shown(state)


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
