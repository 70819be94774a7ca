"""Vouchers as they are now. The test that adds this projection copies this file to `projections`."""

from providers.acme import VoucherFact  # type: ignore[import-untyped] # it is there in the copy

from eventstore.fold.projection import Projection
from projections.fast_merging import FastMerger
from projections.tracked import Tracked


class Voucher(Tracked, frozen=True):
    """The state of one voucher."""

    worth: str | None = None


_MERGER = FastMerger(Voucher)

PROJECTION = Projection(
    name="vouchers",
    version=1,
    handles=frozenset({VoucherFact}),
    state=Voucher,
    key="id",
    tombstone="deleted_at",
    evolve=_MERGER.merge,
    judge=_MERGER.judge,
    indexes=("id", "merchant_id"),
    tenant="merchant_id",
)
