"""A crowd around the server as a process, and that each of the checks on it can fail."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventstore.limits import MIB
from simulation.deliveries import Delivery
from tests.support.torture_process import SECONDS, torturing
from torture.checks import Violations
from torture.client import head_of
from torture.crowd_watch import CrowdOutcome, Memory, check, is_whole
from torture.timings import Latencies, Span, Timing, latencies, parted, percentile

if TYPE_CHECKING:
    import subprocess


@pytest.fixture
def torture() -> Iterator["subprocess.Popen[str]"]:
    with torturing("--crowd", "0.05", "--workers", "2", "--kills", "1", "--seed", "1") as process:
        yield process


@pytest.mark.timeout(SECONDS + 60)
def test_a_crowd_delays_loses_and_displaces_nothing(torture: "subprocess.Popen[str]") -> None:
    output, progress = torture.communicate(timeout=SECONDS)
    outcome = json.loads(output)
    # How long deliveries take depends on what else the machine has to do.
    found = [each for each in outcome["first_violations"] if each["kind"] != "slow"]
    assert found == [], progress
    assert (outcome["lost"], outcome["doubled"]) == (0, 0)
    crowd = outcome["crowd"]
    assert crowd["undisturbed"]["count"] > 100
    assert crowd["rejection_kept"]
    assert all(counts["connections"] for counts in crowd["attacks"].values())
    assert crowd["attacks"]["wrong secrets"]["401"] > 10
    assert crowd["attacks"]["100-continue"]["401"] > 1


def timing(began: float, ended: float, outcome: str = "200") -> Timing:
    return Timing(began, ended, ended - began, "whole", outcome)


def test_an_attempt_is_disturbed_if_it_touches_a_kill() -> None:
    timings = [timing(0, 1), timing(1, 3), timing(3, 3.5), timing(2.5, 5), timing(5, 6)]
    assert parted(timings, [Span(2, 4), Span(7, 8)]) == (
        [timing(0, 1), timing(5, 6)],
        [timing(1, 3), timing(3, 3.5), timing(2.5, 5)],
    )


def test_latencies_are_of_what_got_its_200_and_count_the_others() -> None:
    found = latencies([timing(0, 1), timing(0, 3), timing(0, 9, "503"), timing(0, 2)])
    assert found == Latencies(count=4, p50=2.0, p99=3.0, longest=3.0, others={"503": 1})
    assert latencies([]).count == 0


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([float(each) for each in range(1, 201)], 0.99) == 198.0


NOTHING = Latencies(count=0, p50=0.0, p99=0.0, longest=0.0, others={})

GOOD = CrowdOutcome(
    share=1.0,
    before=NOTHING,
    undisturbed=Latencies(count=1_000, p50=0.01, p99=0.9, longest=1.2, others={}),
    undisturbed_by_way={},
    disturbed=Latencies(count=10, p50=0.01, p99=4.0, longest=4.0, others={"503": 3}),
    undisturbed_seconds=10.0,
    memory={"http": Memory(70 * MIB, 200 * MIB)},
    waiting_share=0.3,
    rejection_kept=True,
    attacks={"wrong secrets": {"401": 1_000, "429": 3}},
)


def found(**changes: object) -> dict[str, int]:
    violations = Violations()
    check(msgspec.structs.replace(GOOD, **changes), violations)
    return {str(kind): count for kind, count in violations.counts.items()}


SLOW = Latencies(count=10, p50=0.5, p99=1.5, longest=2.0, others={"TimeoutError": 2, "503": 1})


@pytest.mark.parametrize(
    ("changes", "violations"),
    [
        ({}, {}),
        ({"undisturbed": SLOW}, {"slow": 1, "unserved": 3}),
        ({"undisturbed": SLOW, "waiting_share": 0.9}, {"unserved": 1}),
        ({"memory": {"http": Memory(70 * MIB, 271 * MIB)}}, {"memory": 1}),
        ({"rejection_kept": False}, {"forgotten": 1}),
        ({"attacks": {"100-continue": {"100": 2}}}, {"trusted": 2}),
        ({"attacks": {"wrong secrets": {"200": 1}}}, {"trusted": 1}),
    ],
)
def test_what_a_crowd_may_not_do_is_found(
    changes: dict[str, object], violations: dict[str, int]
) -> None:
    assert found(**changes) == violations


def test_a_server_without_its_parent_or_a_worker_is_not_whole() -> None:
    assert not is_whole([], 2)


@pytest.mark.parametrize("way", ["whole", "in chunks", "100-continue"])
def test_a_delivery_is_framed_in_the_way_that_it_is_sent(way: str) -> None:
    delivery = Delivery(path="/webhooks/loopz", headers={}, body=b"{}", thing="")
    lines = head_of(delivery, {"A": "b"}, way).decode().split("\r\n")
    assert lines[0] == "POST /webhooks/loopz HTTP/1.1"
    assert ("Transfer-Encoding: chunked" in lines) == (way == "in chunks")
    assert ("Content-Length: 2" in lines) == (way != "in chunks")
    assert ("Expect: 100-continue" in lines) == (way == "100-continue")
