"""Facts: what an event says, in our own types, whoever sent it.

A field that the event leaves out is UNSET and changes nothing; a field that it gives as null is None and clears.
Providers give the fields by position: a new field goes to the end of a class that has no subclasses.
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

T = TypeVar("T")

Given: TypeAlias = T | UnsetType | None

Phase: TypeAlias = Literal[
    "created", "authorized", "settling", "settled", "canceled", "failed", "unknown"
]


class Fact(msgspec.Struct, frozen=True):
    """The fields that every fact has.

    `updated_at` is the provider's own time of the change, if it gives one; `received_at` is ours. `created`: the thing
    is new. `deleted`: it is gone, at `deleted_at` if the provider says when; `deleted_by` is the last instant that this
    may mean: of a whole second its end.
    """

    provider: str
    merchant_id: str
    program_id: str | None
    id: str
    received_at: datetime
    updated_at: datetime | None = None
    created_at: Given[datetime] = UNSET
    created: bool = False
    deleted: bool = False
    deleted_at: datetime | None = None
    deleted_by: datetime | None = None

    @property
    def time(self) -> datetime | None:
        """The provider's own time of the change, if it gives one; for a deletion, when it deleted."""
        if self.deleted and self.deleted_at is not None:
            return max(self.deleted_at, self.updated_at or self.deleted_at)
        return self.updated_at


class GiftCardFact(Fact, frozen=True):
    """A gift card as it is now. `balance` is in minor units (cents) of `currency`."""

    type: Given[str] = UNSET
    status: Given[str] = UNSET
    balance: Given[int] = UNSET
    currency: Given[str] = UNSET
    code: Given[str] = UNSET
    gan: Given[str] = UNSET


class TransactionFact(Fact, frozen=True):
    """A transaction as it is now. Amounts are decimals in major units of `currency`.

    `kind` is ours (purchase, withdrawal, topup, ...), `method` the provider's own word for it; `phase` is ours,
    `status` the provider's own word. `reference` is the client's own id for it.
    """

    kind: Given[str] = UNSET
    method: Given[str] = UNSET
    status: Given[str] = UNSET
    phase: Phase | UnsetType = UNSET
    amount: Given[Decimal] = UNSET
    tip: Given[Decimal] = UNSET
    currency: Given[str] = UNSET
    gift_card_id: Given[str] = UNSET
    location_id: Given[str] = UNSET
    reference: Given[str] = UNSET


class LocationFact(Fact, frozen=True):
    """A location as it is now."""

    name: Given[str] = UNSET
    status: Given[str] = UNSET
    type: Given[str] = UNSET
    external_id: Given[str] = UNSET
