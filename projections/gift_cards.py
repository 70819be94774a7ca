"""Gift cards as they are now: what each is worth, and whether it still exists."""

from typing import Annotated

from msgspec import UNSET

from eventstore.projection import Projection
from eventstore.tables import SECRET
from projections.merging import Tracked, tracked
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


# What is known before the first fact.
_NOTHING = GiftCard("", "", None, "")


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


PROJECTION = Projection(
    name="gift_cards",
    version=1,
    handles=frozenset({GiftCardFact}),
    state=GiftCard,
    evolve=evolve,
    indexes=("id", "merchant_id", "status"),
)
