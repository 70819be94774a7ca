"""Gift cards as they are now: what each is worth, and whether it still exists."""

from typing import Annotated

import msgspec

from eventstore.columns import SECRET
from eventstore.events import Event
from eventstore.projection import Journal, Projection, Total
from projections.merging import Tracked, merge
from providers.facts import GiftCardFact


class GiftCard(Tracked, frozen=True):
    """The state of one card. `balance` is in minor units (cents) of `currency`.

    Who knows `code` or `gan` can spend the card.
    """

    type: str | None = None
    status: str | None = None
    balance: int | None = None
    currency: str | None = None
    code: Annotated[str | None, SECRET] = None
    gan: Annotated[str | None, SECRET] = None


class BalanceChange(msgspec.Struct, frozen=True):
    """What an event did to a card's balance, in minor units of `currency`. No balance counts as nothing in `delta`."""

    before: int | None
    after: int | None
    delta: int
    currency: str | None
    topic: str


def evolve(state: GiftCard | None, fact: GiftCardFact) -> GiftCard:
    """A balance is an absolute snapshot: the newest one wins."""
    return merge(state, fact, GiftCard)


def write(before: GiftCard | None, after: GiftCard, event: Event) -> BalanceChange | None:
    """An entry for every event that changes a balance, or its currency."""
    balance, currency = (None, None) if before is None else (before.balance, before.currency)
    if after.balance == balance and (after.currency == currency or balance is None):
        return None
    delta = (after.balance or 0) - (balance or 0)
    return BalanceChange(balance, after.balance, delta, after.currency, event.topic)


PROJECTION = Projection(
    name="gift_cards",
    version=1,
    handles=frozenset({GiftCardFact}),
    state=GiftCard,
    evolve=evolve,
    indexes=("id", "merchant_id", "status"),
    journal=Journal(name="balance_changes", entry=BalanceChange, write=write),
    total=Total("balance", by=("currency",)),
)
