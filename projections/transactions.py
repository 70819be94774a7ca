"""Transactions of every provider in one shape: what kind, how much, and how far along."""

from decimal import Decimal

import msgspec
from msgspec import UNSET

from eventstore.fold.projection import Journal, Projection, Total
from eventstore.log.events import Event
from projections.tracked import Tracked, tracked
from providers.facts import Phase, TransactionFact


class Transaction(Tracked, frozen=True):
    """The state of one transaction. `amount` and `tip` are decimals in major units of `currency`.

    `kind` and `phase` are ours; `method` and `status` are the provider's own words. `reference` is the client's own
    id for it; `gift_card_id` and `location_id` are the ids of the card and the place, where they are known.
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


# What is known before the first fact.
_NOTHING = Transaction("", "", None, "")


class StatusChange(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """What an event did to a transaction's status, in the provider's words, and the phase it is in since."""

    from_: str | None
    to: str | None
    phase: Phase


def evolve(state: Transaction | None, fact: TransactionFact) -> Transaction:
    """The newest change of status wins."""
    old = state or _NOTHING
    fields = tracked(old, fact)
    if fields is None:
        return old
    return Transaction(
        *fields,
        old.kind if fact.kind is UNSET else fact.kind,
        old.method if fact.method is UNSET else fact.method,
        old.status if fact.status is UNSET else fact.status,
        old.phase if fact.phase is UNSET else fact.phase,
        old.amount if fact.amount is UNSET else fact.amount,
        old.tip if fact.tip is UNSET else fact.tip,
        old.currency if fact.currency is UNSET else fact.currency,
        old.gift_card_id if fact.gift_card_id is UNSET else fact.gift_card_id,
        old.location_id if fact.location_id is UNSET else fact.location_id,
        old.reference if fact.reference is UNSET else fact.reference,
    )


def write(before: Transaction | None, after: Transaction, _: Event) -> StatusChange | None:
    """An entry for every event that changes a status, or the phase; the first of a transaction always does."""
    if before is None:
        return StatusChange(None, after.status, after.phase)
    if before.status == after.status and before.phase == after.phase:
        return None
    return StatusChange(before.status, after.status, after.phase)


PROJECTION = Projection(
    name="transactions",
    version=1,
    handles=frozenset({TransactionFact}),
    state=Transaction,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    indexes=("id", "merchant_id", "kind", "phase", "gift_card_id", "location_id", "reference"),
    tenant="merchant_id",
    journal=Journal(name="status_changes", entry=StatusChange, write=write),
    total=Total("amount", by=("phase", "currency")),
)
