"""After the upgrade to one order of facts, a rebuild shows what the network had done to states, and by which event."""

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import UNSET

from projections import transactions
from projections.transactions import Transaction
from providers.facts import Fact
from simulation.deliveries import Rates, deliveries
from tests.conftest import StartLoopledger
from tests.support.rebuilding import CASH, level, post, ready, running

if TYPE_CHECKING:
    from eventstore.fold.projection import Place

pytestmark = pytest.mark.usefixtures("quick")

DISORDERLY = Rates(duplicate=0.1, late=0.2, fitbank=0.6)


def as_before(state: Transaction | None, fact: Fact, _: "Place") -> Transaction:
    """Fold as once: an older snapshot is stale, whatever it gives that no newer one does."""
    old, time = state or Transaction("", "", None, ""), fact.time
    if state is not None and time is not None and old.updated_at and time < old.updated_at:
        return state
    told: dict[str, Any] = {
        name: getattr(fact, name)
        for name in Transaction.__struct_fields__
        if getattr(fact, name, UNSET) is not UNSET
    }
    gone = (fact.deleted_at or time or fact.received_at) if fact.deleted else None
    told |= {"updated_at": time or old.updated_at, "deleted_at": gone}
    return msgspec.structs.replace(old, **told)


async def test_a_rebuild_shows_what_disorder_had_done_and_the_history_says_why(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = transactions.PROJECTION
    before = msgspec.structs.replace(now, evolve=as_before, judge=None, timeline=None)
    monkeypatch.setattr(transactions, "PROJECTION", before)
    async with running(start) as client:
        for one in deliveries(7, 400, DISORDERLY):
            sent = await client.request("POST", one.path, data=one.body, headers=one.headers)
            assert sent.status == 200
        await level(client, CASH)
    monkeypatch.setattr(transactions, "PROJECTION", now)
    async with running(start) as client:
        assert (await level(client, CASH))["stale"]
        diff = (await ready(client, CASH))["diff"]
        # What is kept is what was; only when a payment was made was lost, where that came late.
        assert set(diff["columns"]) == {"created_at", "position"}
        assert diff["rows"]["changed"] == diff["columns"]["created_at"] > 0
        assert (diff["rows"]["added"], diff["rows"]["gone"]) == (0, 0)
        assert diff["timeline"]["added"] == diff["timeline"]["after"] > 0
        await post(client, f"{CASH}/promote")
        for changed in diff["sample"]:
            assert changed["changes"]["created_at"]["before"] is None
            id_ = changed["stream"].rpartition("/")[2]
            history = (await client.get(f"/v1/transactions/{id_}/history")).json["items"]
            (why,) = [item for item in history if item["position"] == changed["diverged_at"]]
            assert why["verdict"] == "late"
