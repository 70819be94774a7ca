"""A body is read quickly only where no key can be there twice, whatever names it has besides."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from providers.parsing import MOST_LEARNT, Reader


class Inner(msgspec.Struct):
    """What is inside."""

    amount: Any = UNSET


class Thing(msgspec.Struct):
    """What is read."""

    id: Any = UNSET
    inner: Inner | str | UnsetType = UNSET


@pytest.fixture
def reader() -> Reader[Thing]:
    """One that has met some names that are no fields."""
    reader = Reader(Thing)
    met = b'{"id":"x","note":{"id":2,"a":[1,2.50]},"odd name":null,"\xc3\xa9":"\\u00e9,"}'
    for _ in range(2):
        found = reader.read(met)
        assert found is not None
        assert found.id == "x"
    return reader


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":1,"note":2}',
        b'{"id": 1, "note": {"id": 2, "a": "b,c"}, "new": [1, 2]}',
        b'{"id":1,"inner":{"amount":5,"text":"5,00"},"odd name":"\\"id\\":2"}',
        b'{"id":1,"learnt_0":2,"learnt_1":3}',
        b'{"id":1,"note":1e400,"other":-0.0}',
    ],
)
def test_names_that_are_no_fields_do_not_matter(reader: Reader[Thing], body: bytes) -> None:
    for _ in range(2):
        found = reader.read(body)
        assert found is not None
        assert found.id == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":1,"id":2}',
        b'{"id":1,"note":3,"id":2}',
        b'{"id":1,"note":"\\u002c","id":2}',
        b'{"id":1,"note":3,"\\u0069d":2}',
        b'{"id" : 1, "note": "a,b", "unknown": 5, "id" :1}',
        b'{"id":1,"inner":{"amount":5,"amount":6},"note":0}',
        b'{"id":1,"inner":{"amount":5,"more":[],"amount":6},"note":0}',
    ],
)
def test_a_body_with_a_key_twice_is_left_to_be_read_exactly(
    reader: Reader[Thing], body: bytes
) -> None:
    for _ in range(2):
        assert reader.read(body) is None


def test_a_field_with_a_default_would_be_written_again_though_it_was_not_there() -> None:
    class Defaulting(msgspec.Struct):
        id: Any = None

    with pytest.raises(ValueError, match="id"):
        Reader(Defaulting)


def test_more_names_than_can_be_learnt_do_not_matter(reader: Reader[Thing]) -> None:
    names = ",".join(f'"n{n}":{n}' for n in range(2 * MOST_LEARNT))
    for _ in range(2):
        found = reader.read(f'{{"id":1,{names}}}'.encode())
        assert found is not None
        assert found.id == 1
        assert reader.read(f'{{"id":1,{names},"id":2}}'.encode()) is None
