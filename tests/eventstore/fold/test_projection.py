"""A projection is checked when it is made: what it says of its state holds of it."""

from typing import Annotated, Any

import msgspec
import pytest

from eventstore.fold.columns import SECRET
from eventstore.fold.projection import Changes, Projection, Timeline, Total


class Fact(msgspec.Struct, frozen=True):
    """What is said of a thing."""


class Thing(msgspec.Struct, frozen=True):
    """A thing."""

    id: str
    owner: str | None = None
    amount: int | None = None
    gone_at: int | None = None
    code: Annotated[str | None, SECRET] = None


def evolve(state: Thing | None, _: Fact) -> Thing:
    return state or Thing("a")


def timeline(*columns: str, changes: str | None = None) -> dict[str, Any]:
    view = None
    if changes is not None:
        view = Changes(name=changes, kind="amounts", column="amount", beside="owner")
    return {"timeline": Timeline(columns=columns, placement=lambda *_: None, changes=view)}


def projection(**changes: Any) -> Projection[Thing]:  # noqa: ANN401 - a field each
    fields: dict[str, Any] = {
        "name": "things",
        "version": 1,
        "handles": frozenset({Fact}),
        "state": Thing,
        "key": "id",
        "evolve": evolve,
    }
    return Projection(**(fields | changes))


def struct_with(*names: str) -> type[msgspec.Struct]:
    return msgspec.defstruct("Odd", [("id", str), *((name, str) for name in names)])


def test_one_that_says_all_that_is_asked_of_it_is_taken() -> None:
    made = projection(
        tombstone="gone_at",
        indexes=("owner", "amount"),
        tenant="owner",
        **timeline("owner", "amount", changes="changes"),
        total=Total("amount", by=("owner",)),
    )
    assert (made.key, made.tombstone) == ("id", "gone_at")


def test_a_tombstone_an_index_a_tenant_a_timeline_and_a_total_may_be_left_out() -> None:
    made = projection()
    assert (made.tombstone, made.indexes, made.tenant) == (None, (), None)
    assert (made.timeline, made.total) == (None, None)


REFUSED: dict[str, dict[str, Any]] = {
    "version 0 is less than 1": {"version": 0},
    "it handles no fact": {"handles": frozenset()},
    "key: Thing has no field 'uuid'": {"key": "uuid"},
    "tombstone: Thing has no field 'deleted_at'": {"tombstone": "deleted_at"},
    "indexes: Thing has no field 'status'": {"indexes": ("owner", "status")},
    "state: a field is renamed, but each column has the name of its field": {
        "state": msgspec.defstruct(
            "Renamed", [("id", str), ("type_", str)], rename={"type_": "type"}
        )
    },
    "tenant: Thing has no field 'merchant_id'": {"tenant": "merchant_id"},
    "total.amount: Thing has no field 'balance'": {"total": Total("balance", by=())},
    "total.by: Thing has no field 'currency'": {"total": Total("amount", by=("currency",))},
    "state: 'Things; --' is not a plain SQL identifier": {"name": "Things; --"},
    "state: 'Amount' is not a plain SQL identifier": {"state": struct_with("Amount")},
    "state: the name 'stream' is reserved": {"state": struct_with("stream")},
    "state: the name 'position' is reserved": {"state": struct_with("position")},
    "changes: 'a b' is not a plain SQL identifier": timeline("amount", "owner", changes="a b"),
    "changes: 'owner' is not in the timeline": timeline("amount", changes="changes"),
    "timeline: Thing has no field 'status'": timeline("status"),
    "timeline: 'code' is not for everyone to see": timeline("code"),
    "timeline: the name 'rank' is reserved": timeline("rank") | {"state": struct_with("rank")},
    "total: 'owner' is not in the timeline": timeline("amount")
    | {"total": Total("amount", by=("owner",))},
    "total.by: the name 'amount' is reserved": timeline("amount")
    | {"total": Total("amount", by=("amount",))},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_one_that_contradicts_itself_is_refused_with_what_is_wrong(problem: str) -> None:
    changes = REFUSED[problem]
    with pytest.raises(ValueError, match="projection") as refused:
        projection(**changes)
    assert str(refused.value) == f"projection {changes.get('name', 'things')!r}: {problem}"


def test_a_changed_one_is_checked_too() -> None:
    with pytest.raises(ValueError, match="key: Thing has no field 'uuid'"):
        msgspec.structs.replace(projection(), key="uuid")
