"""The pool of builder processes: what each is given to build."""

from itertools import pairwise

import pytest

from eventstore.rebuild.messages import HIGHEST, LOWEST
from eventstore.rebuild.pool import BuilderPool


@pytest.mark.parametrize(
    ("streams", "count"), [(0, 3), (1, 3), (250, 3), (251, 6), (300, 6), (500, 6), (501, 9)]
)
def test_ranges_are_as_many_for_each_builder_and_can_be_held(streams: int, count: int) -> None:
    ranges = BuilderPool([], b"", processes=3, streams=100).ranges(streams)
    assert len(ranges) == count
    assert (ranges[0].low, ranges[-1].high) == (LOWEST, HIGHEST)
    assert all(one.high + 1 == other.low for one, other in pairwise(ranges))
