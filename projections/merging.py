"""The rules by which a fact meets a state: the same for everything that is tracked.

- Last writer wins by the provider's own time; ties, and facts without a time, go by position.
- An absent field keeps its value; an explicit null clears it.
- A deletion leaves a tombstone, and only a fact with a provider's time after the tombstone's brings the thing back.
"""

from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from providers.facts import Fact


class Tracked(msgspec.Struct, frozen=True):
    """What every state holds: whose thing it is, and its times (the provider's own).

    `updated_at` is the newest provider's time applied; `deleted_at` is set while the thing is deleted.
    """

    provider: str
    merchant_id: str
    program_id: str | None
    id: str
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None


S = TypeVar("S", bound=Tracked)


def merge(state: S | None, fact: Fact, type_: type[S]) -> S:
    """Give the state after `fact`, or `state` itself, the very object, if the fact is stale.

    Each field of the state that the fact has by the same name is merged.
    """
    if state is not None and is_stale(state, fact):
        return state
    deleted_at = None
    if fact.deleted:
        deleted_at = fact.deleted_at or fact.time or fact.received_at
    changes: dict[str, Any] = {
        name: value for name in _mergeable(type_) if (value := getattr(fact, name)) is not UNSET
    }
    changes["deleted_at"] = deleted_at
    if fact.program_id is not None:
        changes["program_id"] = fact.program_id
    if fact.time is not None:
        changes["updated_at"] = fact.time
    if state is None:
        changes.setdefault("program_id", None)
        return type_(provider=fact.provider, merchant_id=fact.merchant_id, id=fact.id, **changes)
    return msgspec.structs.replace(state, **changes)


def is_stale(state: Tracked, fact: Fact) -> bool:
    """Say whether `state` already holds something newer than `fact`."""
    if state.deleted_at is None:
        return _before(fact.time, state.updated_at)
    if fact.deleted:
        # A repeated deletion without a time of its own says nothing new.
        return fact.time is None or _before(fact.time, state.updated_at)
    tombstone = max(state.deleted_at, state.updated_at or state.deleted_at)
    return fact.time is None or fact.time <= tombstone


def _before(moment: datetime | None, other: datetime | None) -> bool:
    return moment is not None and other is not None and moment < other


def _mergeable(type_: type[Tracked]) -> tuple[str, ...]:
    fixed = {"provider", "merchant_id", "program_id", "id", "updated_at", "deleted_at"}
    return tuple(name for name in type_.__struct_fields__ if name not in fixed)
