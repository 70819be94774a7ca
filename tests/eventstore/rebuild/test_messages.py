"""Ranges of streams: they can be cut, and nothing is lost or doubled."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.rebuild.messages import HIGHEST, LOWEST, Range


@given(st.integers(LOWEST, HIGHEST), st.integers(LOWEST, HIGHEST), st.integers(1, 300))
@example(LOWEST, HIGHEST, 3)
@example(LOWEST, HIGHEST, 1)
@example(HIGHEST, HIGHEST, 7)
@example(5, 9, 4)
def test_the_parts_of_a_range_make_it_up_and_do_not_overlap(
    one: int, other: int, parts: int
) -> None:
    whole = Range(min(one, other), max(one, other))
    found = whole.split(parts)
    assert len(found) <= parts
    assert (found[0].low, found[-1].high) == (whole.low, whole.high)
    for before, after in pairwise(found):
        assert before.low <= before.high < after.low == before.high + 1
    assert sum(part.share for part in found) == pytest.approx(whole.share)
