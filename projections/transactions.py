"""Transactions of every provider in one shape: what kind, how much, and how far along."""

from decimal import Decimal

from eventstore.projection import Projection
from projections.merging import Tracked, merge
from providers.facts import Phase, TransactionFact


class Transaction(Tracked, frozen=True):
    """The state of one transaction. Amounts are decimals in major units of `currency`.

    `kind` and `phase` are ours; `method` and `status` are the provider's own words. `reference` is the client's own
    id for it.
    """

    kind: str | None = None
    method: str | None = None
    status: str | None = None
    phase: Phase = "unknown"
    amount: Decimal | None = None
    tip: Decimal | None = None
    currency: str | None = None
    gift_card_id: str | None = None
    location_id: str | None = None
    reference: str | None = None


def evolve(state: Transaction | None, fact: TransactionFact) -> Transaction:
    """The newest change of status wins."""
    return merge(state, fact, Transaction)


PROJECTION = Projection(
    name="transactions",
    version=1,
    handles=frozenset({TransactionFact}),
    state=Transaction,
    evolve=evolve,
    indexes=("id", "merchant_id", "kind", "phase", "gift_card_id", "location_id", "reference"),
)
