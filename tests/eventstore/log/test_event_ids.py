"""Ids of new events."""

import uuid
from functools import reduce
from operator import and_, or_

from eventstore.log.event_ids import new_event_id

VERSION_AND_VARIANT = 0x4000_8000_0000_0000_0000


def test_event_ids_are_random_uuids_of_version_4_and_none_comes_twice() -> None:
    ids = [new_event_id() for _ in range(10_000)]

    assert len(set(ids)) == len(ids)
    assert {(each.version, each.variant) for each in ids} == {(4, uuid.RFC_4122)}
    # Each of the other 122 bits is set in some and not in others.
    always, ever = (reduce(combine, (each.int for each in ids)) for combine in (and_, or_))
    assert always == VERSION_AND_VARIANT
    assert (always ^ ever).bit_count() == 122
