"""Transactions of every provider in one shape: what kind, how much, and how far along."""

from collections.abc import Mapping
from decimal import Decimal

from msgspec import UNSET

from eventstore.fold.projection import Changes, Money, Place, Projection, Timeline, Total
from projections.fast_merging import FastMerger
from projections.tracked import EFFECTIVE_AT, Tracked
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


# Of two facts of one time, the one further along is the newer; what we cannot read comes first.
RANKS: Mapping[Phase, int] = {
    "unknown": 0,
    "created": 1,
    "authorized": 2,
    "settling": 3,
    "settled": 4,
    "failed": 5,
    "canceled": 5,
}

_MERGER = FastMerger(Transaction, "phase", RANKS)
(
    _KIND,
    _METHOD,
    _STATUS,
    _PHASE,
    _AMOUNT,
    _TIP,
    _CURRENCY,
    _GIFT_CARD_ID,
    _LOCATION_ID,
    _REFERENCE,
) = _MERGER.masks


def evolve(state: Transaction | None, fact: TransactionFact, at: Place) -> Transaction:  # noqa: C901 - straight lines
    """The newest change of status wins."""
    old, missing = state or _NOTHING, 0
    if (kind := fact.kind) is UNSET:
        missing, kind = missing | _KIND, old.kind
    if (method := fact.method) is UNSET:
        missing, method = missing | _METHOD, old.method
    if (status := fact.status) is UNSET:
        missing, status = missing | _STATUS, old.status
    if (phase := fact.phase) is UNSET:
        missing, phase = missing | _PHASE, old.phase
    if (amount := fact.amount) is UNSET:
        missing, amount = missing | _AMOUNT, old.amount
    if (tip := fact.tip) is UNSET:
        missing, tip = missing | _TIP, old.tip
    if (currency := fact.currency) is UNSET:
        missing, currency = missing | _CURRENCY, old.currency
    if (gift_card_id := fact.gift_card_id) is UNSET:
        missing, gift_card_id = missing | _GIFT_CARD_ID, old.gift_card_id
    if (location_id := fact.location_id) is UNSET:
        missing, location_id = missing | _LOCATION_ID, old.location_id
    if (reference := fact.reference) is UNSET:
        missing, reference = missing | _REFERENCE, old.reference
    fields = _MERGER.in_order(old, fact, missing, at)
    if fields is None:
        return _MERGER.merge(state, fact, at)
    after = Transaction(
        *fields,
        kind,
        method,
        status,
        phase,
        amount,
        tip,
        currency,
        gift_card_id,
        location_id,
        reference,
    )
    if fact.updated_at is None and status == old.status and _MERGER.is_repeat(old, after):
        return _MERGER.merge(state, fact, at)
    return after


PROJECTION = Projection(
    name="transactions",
    version=1,
    handles=frozenset({TransactionFact}),
    state=Transaction,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    judge=_MERGER.judge,
    indexes=(
        "id",
        "merchant_id",
        "program_id",
        "provider",
        "kind",
        "status",
        "phase",
        "currency",
        "gift_card_id",
        "location_id",
        "reference",
    ),
    tenant="merchant_id",
    ranges=("amount",),
    references=("reference",),
    effective_at=EFFECTIVE_AT,
    timeline=Timeline(
        columns=("kind", "status", "phase", "amount", "currency"),
        placement=_MERGER.placement,
        changes=Changes(name="status_changes", kind="words", column="status", beside="phase"),
    ),
    total=Total("amount", by=("phase", "currency")),
    money=Money(amount="amount", currency="currency", minor=False),
)
