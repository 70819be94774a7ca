"""Gift cards as they are now: what each is worth, and whether it still exists."""

from typing import Annotated

from eventstore.projection import Projection
from eventstore.tables import SECRET
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


def evolve(state: GiftCard | None, fact: GiftCardFact) -> GiftCard:
    """A balance is an absolute snapshot: the newest one wins."""
    return merge(state, fact, GiftCard)


PROJECTION = Projection(
    name="gift_cards",
    version=1,
    handles=frozenset({GiftCardFact}),
    state=GiftCard,
    evolve=evolve,
    indexes=("id", "merchant_id", "status"),
)
