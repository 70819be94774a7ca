"""Vouchers as they are now. The test that adds this projection copies this file to `projections`."""

from msgspec import UNSET
from providers.acme import VoucherFact  # type: ignore[import-untyped] # it is there in the copy

from eventstore.fold.projection import Projection
from projections.tracked import Tracked, tracked


class Voucher(Tracked, frozen=True):
    """The state of one voucher."""

    worth: str | None = None


def evolve(state: Voucher | None, fact: VoucherFact) -> Voucher:
    """The newest fact wins."""
    old = state or Voucher("", "", None, "")
    fields = tracked(old, fact)
    return (
        old
        if fields is None
        else Voucher(*fields, old.worth if fact.worth is UNSET else fact.worth)
    )


PROJECTION = Projection(
    name="vouchers",
    version=1,
    handles=frozenset({VoucherFact}),
    state=Voucher,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    indexes=("id", "merchant_id"),
    tenant="merchant_id",
)
