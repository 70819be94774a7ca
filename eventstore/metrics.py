"""Numbers that a process counts, cheap enough for every delivery. runtime/metrics names, sums and shows them."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

# The values of one metric, by its labels: one number, or those of a histogram.
Samples: TypeAlias = dict[tuple[str, ...], list[float]]

# The values of some metrics, by their names.
Values: TypeAlias = dict[str, Samples]

# Upper bounds of histograms: of durations in seconds, and of batches in events.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
EVENTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """How many observed values were at most each of the `bounds`, and what all of them make together."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def numbers(self) -> list[float]:
        """How many values lie between two bounds each, the last beyond all of them; then the sum of the values."""
        return [*self._counts, self._sum]


class Commits:
    """Commits of batches: how long each took, in seconds, and how many events it had."""

    def __init__(self) -> None:
        self.seconds = Histogram(SECONDS)
        self.events = Histogram(EVENTS)

    def count(self, events: int, seconds: float) -> None:
        """Count one."""
        self.events.observe(events)
        self.seconds.observe(seconds)
