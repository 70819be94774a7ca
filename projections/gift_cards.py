"""Gift cards as they are now: what each is worth, and whether it still exists."""

from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import UNSET

from eventstore.fold.columns import SECRET
from eventstore.fold.projection import Journal, Projection, Total
from eventstore.log.events import Event
from projections.tracked import Tracked, tracked
from providers.facts import GiftCardFact


class GiftCard(Tracked, frozen=True):
    """The state of one card. `balance` is in minor units (cents) of `currency`.

    `type` and `status` are the provider's own words. Who knows `code` or `gan` can spend the card.
    """

    type: str | None = None
    status: str | None = None
    balance: int | None = None
    currency: str | None = None
    code: Annotated[str | None, SECRET] = None
    gan: Annotated[str | None, SECRET] = None


# What is known before the first fact.
_NOTHING = GiftCard("", "", None, "")


class BalanceChange(msgspec.Struct, frozen=True):
    """What an event did to a card's balance, in minor units of `currency`.

    No balance counts as nothing in `delta`, which the difference of two int64 may not fit.
    """

    before: int | None
    after: int | None
    delta: Decimal
    currency: str | None
    topic: str


def evolve(state: GiftCard | None, fact: GiftCardFact) -> GiftCard:
    """A balance is an absolute snapshot: the newest one wins."""
    old = state or _NOTHING
    fields = tracked(old, fact)
    if fields is None:
        return old
    return GiftCard(
        *fields,
        old.type if fact.type is UNSET else fact.type,
        old.status if fact.status is UNSET else fact.status,
        old.balance if fact.balance is UNSET else fact.balance,
        old.currency if fact.currency is UNSET else fact.currency,
        old.code if fact.code is UNSET else fact.code,
        old.gan if fact.gan is UNSET else fact.gan,
    )


def write(before: GiftCard | None, after: GiftCard, event: Event) -> BalanceChange | None:
    """An entry for every event that changes a balance, or its currency."""
    balance, currency = (None, None) if before is None else (before.balance, before.currency)
    if after.balance == balance and (after.currency == currency or balance is None):
        return None
    delta = Decimal((after.balance or 0) - (balance or 0))
    return BalanceChange(balance, after.balance, delta, after.currency, event.topic)


PROJECTION = Projection(
    name="gift_cards",
    version=1,
    handles=frozenset({GiftCardFact}),
    state=GiftCard,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    indexes=("id", "merchant_id", "status"),
    tenant="merchant_id",
    journal=Journal(name="balance_changes", entry=BalanceChange, write=write),
    total=Total("balance", by=("currency",)),
)
