"""Recorded deliveries in orders in which they really come: what becomes of each, and what is known in the end."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any

import msgspec
import pytest

from eventstore.fold.explaining import Explainer
from eventstore.fold.folding import fold
from providers.provider import Provider
from tests.providers.test_providers import DELIVERIES, delivery
from tests.support.live_fold import PROJECTIONS, shown
from tests.support.reading import RECEIVED_AT, configured, on_log


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Provider]:
    return configured(tmp_path_factory.mktemp("orders"))


def told(providers: Mapping[str, Provider], cases: str) -> tuple[list[str], dict[str, Any]]:
    """The verdicts on deliveries that come one second after the other, and the state in the end."""
    state, verdicts, explainer = None, [], Explainer()
    for position, case in enumerate(cases.split(), 1):
        name = case.partition("/")[0]
        headers, body = delivery(DELIVERIES / name / f"order-{case.partition('/')[2]}.http")
        provider = providers[name]
        moment = RECEIVED_AT + timedelta(seconds=position)
        event = msgspec.structs.replace(
            on_log(provider, provider.recognise(headers, body), body),
            position=position,
            received_at=moment,
            recorded_at=moment,
        )
        projection = PROJECTIONS["gift_cards" if name == "loopz" else "transactions"]
        one = fold(projection, providers, state, event)
        assert one.judgement is not None
        verdict, decided_by, reason = explainer.explain(one.judgement, position)
        told = verdict if decided_by is None else f"{verdict} by {decided_by}"
        verdicts.append(f"{told}, {reason}" if reason else told)
        state = one.state
    assert state is not None
    return verdicts, shown(state)


CASES: Mapping[str, tuple[str, Sequence[str], Mapping[str, object]]] = {
    "a repeat does not put a balance back": (
        "loopz/spent-first loopz/spent-then-in-the-same-instant loopz/spent-first",
        ["applied", "tie", "duplicate by 1"],
        {"balance": 1000},
    ),
    "a late snapshot sets what a partial one left out": (
        "loopz/newer-in-part loopz/created",
        ["applied", "late by 1"],
        {"balance": 700, "code": "MADE-UP-CODE-1", "type": "DIGITAL"},
    ),
    "a late snapshot does not set what was cleared": (
        "loopz/cleared-in-part loopz/created",
        ["applied", "late by 1"],
        {"balance": 5000, "code": "MADE-UP-CODE-1", "type": None},
    ),
    "an older snapshot changes nothing": (
        "loopz/created loopz/spent-first loopz/created",
        ["applied", "applied", "duplicate by 1"],
        {"balance": 3000},
    ),
    "a deletion in whole seconds is after an update in that second": (
        "loopz/deleted-in-the-second-of-an-update loopz/spent-first",
        ["applied", "late by 1"],
        {"balance": 3000},
    ),
    "a clock that is ahead does not undo a deletion without a time": (
        "loopz/created loopz/deleted-without-a-time loopz/updated-by-a-clock-20-seconds-ahead",
        ["applied", "applied", "applied by 2, after-deletion"],
        {"balance": 900},
    ),
    "what is created again begins with nothing": (
        "loopz/created loopz/deleted-in-the-second-of-an-update loopz/created-again",
        ["applied", "applied", "applied"],
        {"balance": 2000, "code": None},
    ),
    "a payment of one instant is as far along as was said": (
        "fitbank/authorized-in-the-same-instant fitbank/created",
        ["applied", "tie by 1"],
        {"phase": "authorized", "status": "Authorized", "reference": "R-1"},
    ),
    "a status that is a number does not displace one that we know": (
        "fitbank/authorized-in-the-same-instant fitbank/status-number-in-the-same-instant",
        ["applied", "tie by 1"],
        {"phase": "authorized", "status": "Authorized"},
    ),
    "what is known only from the creation is kept when that comes last": (
        "fitbank/canceled fitbank/authorized-in-the-same-instant fitbank/created",
        ["applied", "stale by 1", "late by 1"],
        {"phase": "canceled", "reference": "R-1"},
    ),
}


@pytest.mark.parametrize(("cases", "verdicts", "state"), CASES.values(), ids=CASES)
def test_each_delivery_gets_its_verdict(
    providers: Mapping[str, Provider],
    cases: str,
    verdicts: Sequence[str],
    state: Mapping[str, object],
) -> None:
    found, known = told(providers, cases)
    assert found == verdicts
    assert {name: known[name] for name in state} == state
    assert (known["deleted_at"] is None) == ("deleted" not in cases or "created-again" in cases)


@pytest.mark.parametrize(
    "cases",
    [
        "loopz/created loopz/spent-first loopz/newer-in-part loopz/created-again",
        "loopz/created loopz/deleted-in-the-second-of-an-update loopz/created-again",
        "fitbank/created fitbank/authorized-in-the-same-instant fitbank/canceled",
    ],
)
def test_the_order_in_which_they_come_makes_no_difference(
    providers: Mapping[str, Provider], cases: str
) -> None:
    _, wanted = told(providers, cases)
    for order in permutations(cases.split()):
        assert told(providers, " ".join(order))[1] == wanted
