"""What a transaction is after its facts."""

from tests.support import NOON
from tests.support.generated_deliveries import MOMENTS, to_log
from tests.support.live_fold import PROJECTIONS, folded
from tests.support.reference_model import Sent

PURCHASE = "UpdatePurchaseClosedLoopStatusMongo"


def test_a_payment_created_without_a_date_keeps_the_date_it_was_created_at() -> None:
    body = {"Method": PURCHASE, "BusinessUnitId": 0, "Identifier": "x-1", "Status": "Created"}
    dated = body | {"Date": MOMENTS[1].isoformat()}
    log = to_log([Sent("fitbank", PURCHASE, "0", None, one, NOON) for one in (dated, body)])
    (state,) = folded(PROJECTIONS["transactions"], log).states.values()
    assert state["created_at"] == MOMENTS[1]
