"""Gift cards as they are now: what each is worth, and whether it still exists."""

from typing import Annotated

from msgspec import UNSET

from eventstore.fold.columns import SECRET
from eventstore.fold.projection import Changes, Money, Place, Projection, Timeline, Total
from projections.fast_merging import FastMerger
from projections.tracked import EFFECTIVE_AT, Tracked
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


_MERGER = FastMerger(GiftCard)
_TYPE, _STATUS, _BALANCE, _CURRENCY, _CODE, _GAN = _MERGER.masks


def evolve(state: GiftCard | None, fact: GiftCardFact, at: Place) -> GiftCard:
    """A balance is an absolute snapshot: the newest one wins."""
    old, missing = state or _NOTHING, 0
    if (type_ := fact.type) is UNSET:
        missing, type_ = missing | _TYPE, old.type
    if (status := fact.status) is UNSET:
        missing, status = missing | _STATUS, old.status
    if (balance := fact.balance) is UNSET:
        missing, balance = missing | _BALANCE, old.balance
    if (currency := fact.currency) is UNSET:
        missing, currency = missing | _CURRENCY, old.currency
    if (code := fact.code) is UNSET:
        missing, code = missing | _CODE, old.code
    if (gan := fact.gan) is UNSET:
        missing, gan = missing | _GAN, old.gan
    fields = _MERGER.in_order(old, fact, missing, at)
    if fields is None:
        return _MERGER.merge(state, fact, at)
    after = GiftCard(*fields, type_, status, balance, currency, code, gan)
    if fact.updated_at is None and balance == old.balance and _MERGER.is_repeat(old, after):
        return _MERGER.merge(state, fact, at)
    return after


PROJECTION = Projection(
    name="gift_cards",
    version=1,
    handles=frozenset({GiftCardFact}),
    state=GiftCard,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    judge=_MERGER.judge,
    indexes=("id", "merchant_id", "program_id", "provider", "type", "status", "currency"),
    tenant="merchant_id",
    ranges=("balance",),
    secrets=("gan", "code"),
    effective_at=EFFECTIVE_AT,
    timeline=Timeline(
        columns=("balance", "currency"),
        placement=_MERGER.placement,
        changes=Changes(
            name="balance_changes", kind="amounts", column="balance", beside="currency"
        ),
    ),
    total=Total("balance", by=("currency",)),
    money=Money(amount="balance", currency="currency", minor=True),
)
