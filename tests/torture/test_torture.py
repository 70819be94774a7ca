"""The crash tests as a process, and that each of their checks can fail."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest

from eventstore.fold.projection import Projection
from projections import load_projections
from providers import load_providers
from tests.support import NOON, new_event, on_record
from tests.support.torture_process import SECONDS, torturing
from torture.checks import (
    Counts,
    FreshFold,
    LogCheck,
    OnRecord,
    Violations,
    check_counts,
    check_quarantine,
    check_states,
)
from torture.kills import kinds_for
from torture.load import sent, unique
from torture.sender_log import SenderLog, Sent, digest_of

if TYPE_CHECKING:
    import subprocess


@pytest.fixture
def torture() -> Iterator["subprocess.Popen[str]"]:
    with torturing("--kills", "20", "--seed", "1") as process:
        yield process


# Twenty kills, each with a restart under load, may take it four minutes on a slow machine.
@pytest.mark.timeout(SECONDS + 60)
def test_twenty_kills_lose_nothing_and_double_nothing(torture: "subprocess.Popen[str]") -> None:
    output, progress = torture.communicate(timeout=SECONDS)
    outcome = json.loads(output)
    assert outcome["first_violations"] == [], progress
    assert torture.returncode == 0
    assert outcome["kills"] >= 20
    embedded = "LOOPLEDGER_TEST_DATABASE_URL" not in os.environ
    assert outcome["kills_by_kind"].keys() == set(kinds_for(embedded=embedded))
    assert outcome["acknowledged"] > 100
    assert (outcome["lost"], outcome["doubled"], outcome["holes"]) == (0, 0, 0)
    assert outcome["on_record"] == outcome["acknowledged"] + outcome["repeated_after_a_lost_answer"]


class Story:
    """Deliveries that were sent, each with a 200, and the log that they ought to have made."""

    def __init__(self, count: int = 3) -> None:
        self.sender_log = SenderLog()
        self.log: list[OnRecord] = []
        for position in range(1, count + 1):
            body = b'{"id": "l-%d"}' % position
            number = self.sender_log.enter(
                Sent(
                    provider="loopz",
                    topic="location.updated",
                    stream=f"loopz/m-1/location/l-{position}",
                    digest=digest_of(body),
                )
            )
            attempt, _ = self.sender_log.attempt(number)
            self.sender_log.acknowledge(attempt, position)
            self.log.append(
                OnRecord(
                    position,
                    uuid4(),
                    "loopz",
                    "location.updated",
                    f"loopz/m-1/location/l-{position}",
                    NOON + timedelta(seconds=position),
                    (number, 1),
                    digest_of(body),
                )
            )

    def attempt(self, number: int, *, arrived: bool) -> None:
        """An earlier attempt of this delivery, which got no 200."""
        attempts = self.sender_log.deliveries[number].attempts
        attempt, _ = self.sender_log.attempt(number)
        attempt.outcome = "doubtful" if arrived else "unsent"
        attempts.insert(0, attempts.pop())
        self.log[number - 1] = self.log[number - 1]._replace(mark=(number, 2))

    def add(self, **changes: Any) -> None:  # noqa: ANN401 - any field of an event
        """A further event at the end of the log: the last one, changed."""
        last = self.log[-1]
        self.log.append(
            last._replace(position=last.position + 1, event_id=uuid4())._replace(**changes)
        )

    def change(self, position: int, **changes: Any) -> None:  # noqa: ANN401 - as above
        """Make one event another than it ought to be."""
        self.log[position - 1] = self.log[position - 1]._replace(**changes)

    def found(self, head: int | None = None) -> dict[str, int]:
        """What the check finds, counted."""
        return self.check(head)[0]

    def check(self, head: int | None = None) -> tuple[dict[str, int], list[str], LogCheck]:
        """What the check finds: counted, in words, and the check itself."""
        violations = Violations()
        check = LogCheck(self.sender_log, violations)
        for event in self.log:
            check.add(event)
        check.close(max(event.position for event in self.log) if head is None else head)
        counts = {str(kind): count for kind, count in violations.counts.items()}
        return counts, [each.facts for each in violations.first], check


def test_a_log_as_it_ought_to_be_passes() -> None:
    assert Story().found() == {}


def test_a_missing_position_is_a_hole_and_a_lost_delivery() -> None:
    story = Story()
    del story.log[1]
    counts, facts, _ = story.check()
    assert counts == {"hole": 1, "lost": 1}
    assert facts == [
        "positions 2 to 2",
        "loopz/m-1/location/l-2: attempt 1 of delivery 2 was told 2, and is not on record",
    ]


def test_a_tail_that_is_missing_is_a_hole_as_far_as_the_head_says() -> None:
    story = Story()
    del story.log[1:]
    assert story.found(head=3) == {"hole": 2, "head": 1, "lost": 2}


def test_a_head_behind_the_events_is_found() -> None:
    assert Story().found(head=2) == {"head": 1}


def test_an_event_at_another_position_than_its_200_said_is_lost() -> None:
    story = Story()
    first, second = story.log[0].mark, story.log[1].mark
    story.change(1, mark=second, stream=story.log[1].stream, digest=story.log[1].digest)
    story.change(2, mark=first, stream="loopz/m-1/location/l-1", digest=digest_of(b'{"id": "l-1"}'))
    assert story.found() == {"lost": 2}


def test_an_event_doubled_without_need_is_found() -> None:
    story = Story()
    story.add()
    assert story.found() == {"doubled": 1}


def test_an_event_doubled_before_its_place_is_not_lost_besides() -> None:
    story = Story()
    story.add()
    story.sender_log.deliveries[3].attempts[0].position = 4
    assert story.found() == {"doubled": 1}


def test_an_event_id_on_record_twice_is_found() -> None:
    story = Story()
    story.attempt(3, arrived=True)
    story.add(event_id=story.log[-1].event_id, mark=(3, 1))
    assert story.found() == {"doubled": 1}


def test_two_events_at_one_position_are_found() -> None:
    story = Story()
    story.attempt(3, arrived=True)
    story.add(position=3, mark=(3, 1))
    assert story.found() == {"doubled": 1}


def test_a_repeat_after_a_lost_answer_is_counted_and_allowed() -> None:
    story = Story()
    story.attempt(3, arrived=True)
    story.add(mark=(3, 1))
    counts, _, check = story.check()
    assert counts == {}
    assert check.repeated == 1


def test_an_attempt_that_reached_nobody_cannot_be_on_record() -> None:
    story = Story()
    story.attempt(3, arrived=False)
    story.add(mark=(3, 1))
    assert story.found() == {"unsent": 1}


@pytest.mark.parametrize("mark", [None, (99, 1), (3, 2), (3, 0)])
def test_an_event_that_nobody_sent_is_found(mark: tuple[int, int] | None) -> None:
    story = Story()
    story.add(mark=mark)
    assert story.found() == {"unsent": 1}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("body", {"digest": digest_of(b'{"id":"l-2"}')}),
        ("topic", {"topic": "location.created"}),
        ("stream", {"stream": "loopz/m-2/location/l-2"}),
        ("provider", {"provider": "fitbank"}),
    ],
)
def test_an_altered_event_is_found_and_told_without_what_it_holds(
    name: str, changes: dict[str, object]
) -> None:
    story = Story()
    story.change(2, **changes)
    counts, facts, _ = story.check()
    assert counts == {"altered": 1}
    assert facts == [f"position 2, {story.log[1].stream}: {name}"]


def test_a_time_on_record_that_goes_back_is_found() -> None:
    story = Story()
    story.change(3, recorded_at=NOON)
    assert story.found() == {"order": 1}


def test_a_delivery_that_never_got_its_200_is_found() -> None:
    story = Story()
    story.sender_log.attempt(3)
    assert story.found() == {"down": 1}


LOCATIONS: Projection[msgspec.Struct] = load_projections()["locations"]


def folded() -> FreshFold:
    """A location, something of no concern, and an event that cannot be folded."""
    fresh = FreshFold(LOCATIONS, load_providers({}))
    fresh.add(on_record(new_event("location.updated", {"id": "l-1", "name": "Here"}), 1))
    fresh.add(on_record(new_event("gift-card.updated", {"id": "g-1"}), 2))
    fresh.add(on_record(new_event("location.updated", {"id": "l-2", "updated_on": "soon"}), 3))
    return fresh


def test_a_fold_passes_against_itself() -> None:
    fresh, violations = folded(), Violations()
    assert fresh.counts == Counts(checkpoint=3, folded=1, ignored=1, quarantined=1)
    check_counts("locations", fresh, fresh.counts, violations)
    check_states("locations", fresh.states, dict(fresh.states), violations)
    check_quarantine("locations", fresh, {3}, violations)
    assert violations.counts == {}


def test_a_wrong_state_is_found_and_told_without_what_it_holds() -> None:
    fresh, violations = folded(), Violations()
    ((stream, (position, state)),) = fresh.states.items()
    wrong = msgspec.structs.replace(state, name="There")
    check_states("locations", fresh.states, {stream: (position, wrong)}, violations)
    assert [each.facts for each in violations.first] == [f"locations: {stream} differs in name"]


def test_a_state_at_a_wrong_position_is_found() -> None:
    fresh, violations = folded(), Violations()
    ((stream, (_, state)),) = fresh.states.items()
    check_states("locations", fresh.states, {stream: (3, state)}, violations)
    assert [each.facts for each in violations.first] == [f"locations: {stream} differs in position"]


def test_missing_and_unknown_states_are_found() -> None:
    fresh, violations = folded(), Violations()
    ((stream, placed),) = fresh.states.items()
    check_states("locations", fresh.states, {"elsewhere": placed}, violations)
    assert violations.counts == {"state": 2}
    assert {each.facts for each in violations.first} == {
        f"locations: {stream} is missing",
        "locations: elsewhere is not in the log",
    }


def test_what_is_wrongly_or_not_in_quarantine_is_found() -> None:
    violations = Violations()
    check_quarantine("locations", folded(), {1}, violations)
    assert [each.facts for each in violations.first] == [
        "locations: position 1 is wrongly in quarantine",
        "locations: position 3 is not in quarantine",
    ]


@pytest.mark.parametrize(
    ("counts", "count"),
    [
        (Counts(checkpoint=3, folded=1, ignored=2, quarantined=0), 1),
        (Counts(checkpoint=3, folded=1, ignored=1, quarantined=0), 2),
        (Counts(checkpoint=2, folded=1, ignored=1, quarantined=0), 1),
    ],
)
def test_counts_that_are_not_those_of_the_log_are_found(counts: Counts, count: int) -> None:
    violations = Violations()
    check_counts("locations", folded(), counts, violations)
    assert violations.counts == {"count": count}


def test_many_violations_are_counted_and_only_the_first_ones_kept() -> None:
    violations = Violations()
    for position in range(1_000):
        violations.add("lost", f"position {position}")
    assert violations.counts == {"lost": 1_000}
    assert len(violations.first) == 20


def test_the_load_is_the_same_for_the_same_seed_and_never_repeats_itself() -> None:
    first, again = (unique(7) for _ in range(2))
    drawn = [next(first) for _ in range(3_000)]
    assert drawn == [next(again) for _ in range(3_000)]
    assert len({(sent(each).topic, each.body) for each in drawn}) == 3_000


def test_the_load_holds_large_undecodable_and_unhandled_deliveries() -> None:
    load = unique(7)
    drawn = [next(load) for _ in range(3_000)]
    assert max(len(each.body) for each in drawn) > 100_000
    assert any(b'"yesterday"' in each.body for each in drawn)
    assert any(sent(each).topic.endswith(".polished") for each in drawn)
