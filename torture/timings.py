"""How long deliveries took, and which of them count: those whose server nobody was killing. Pure."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

OK = "200"


class Timing(NamedTuple):
    """One attempt to deliver, by a monotonic clock. `seconds`: what the server took; `outcome`: status or error."""

    began: float
    ended: float
    seconds: float
    way: str
    outcome: str


class Span(NamedTuple):
    """A time in which the server was being killed, or came back."""

    began: float
    ended: float


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries of a part of a run: how many, and how long those that got a 200 took, in seconds."""

    count: int
    p50: float
    p99: float
    longest: float
    others: dict[str, int]


def parted(
    timings: Iterable[Timing], disturbances: Sequence[Span]
) -> tuple[list[Timing], list[Timing]]:
    """Part the attempts in those that touch none of the disturbances, which are in order, and the others."""
    parts: tuple[list[Timing], list[Timing]] = ([], [])
    ends = [span.ended for span in disturbances]
    for timing in timings:
        place = bisect_left(ends, timing.began)
        touched = place < len(ends) and disturbances[place].began <= timing.ended
        parts[touched].append(timing)
    return parts


def latencies(timings: Collection[Timing]) -> Latencies:
    """Sum up; zeros if there are none."""
    taken = sorted(each.seconds for each in timings if each.outcome == OK)
    others = Counter(each.outcome for each in timings if each.outcome != OK)
    return Latencies(
        count=len(timings),
        p50=round(percentile(taken, 0.5), 4),
        p99=round(percentile(taken, 0.99), 4),
        longest=round(taken[-1], 4) if taken else 0.0,
        others=dict(others.most_common()),
    )


def by_way(timings: Iterable[Timing]) -> dict[str, Latencies]:
    """Sum up each way of sending apart."""
    ways: dict[str, list[Timing]] = {}
    for timing in timings:
        ways.setdefault(timing.way, []).append(timing)
    return {way: latencies(ways[way]) for way in sorted(ways)}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share does not exceed; 0 of none."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else 0.0
