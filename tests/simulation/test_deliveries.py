"""The stream of deliveries that a seed makes: believable, repeatable, as late and as double as asked."""

import itertools
import json
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.deliveries import Delivery, Rates, deliveries
from tests.support.receiving import by_thing

seeds = st.integers(0, 2**32)

counts = st.integers(0, 400)

few = settings(max_examples=25, deadline=None)

in_order = Rates(duplicate=0, late=0)

plain = Rates(duplicate=0, late=0, wrapped=0, camel_case=0, only_id=0)


def topic(delivery: Delivery) -> str:
    return delivery.headers.get("X-LOOPZ-WEBHOOK-TOPIC", "fitbank")


def content(delivery: Delivery) -> dict[str, Any]:
    """Return the body's object, out of its wrapper if it has one."""
    body = json.loads(delivery.body)
    assert isinstance(body, dict)
    inner = next(iter(body.values()))
    return inner if len(body) == 1 and isinstance(inner, dict) else body


def provider_time(delivery: Delivery) -> datetime | None:
    body = content(delivery)
    text = body.get("updated_on") or body.get("updatedAt") or body.get("Date")
    return datetime.fromisoformat(text) if text else None


@few
@given(seeds, counts)
def test_the_same_seed_gives_the_same_bytes_and_exactly_as_many_as_asked(
    seed: int, count: int
) -> None:
    once, again = list(deliveries(seed, count)), list(deliveries(seed, count))
    assert once == again
    assert len(once) == count


@few
@given(seeds)
def test_a_shorter_run_is_the_beginning_of_a_longer_one(seed: int) -> None:
    assert list(deliveries(seed, 50)) == list(itertools.islice(deliveries(seed, 500), 50))


@few
@given(seeds)
def test_another_seed_gives_other_things(seed: int) -> None:
    here = {delivery.thing for delivery in deliveries(seed, 300)}
    there = {delivery.thing for delivery in deliveries(seed + 1, 300)}
    assert not here & there


@few
@given(seeds, counts)
def test_every_body_is_a_json_object_and_every_delivery_says_where_it_belongs(
    seed: int, count: int
) -> None:
    for delivery in deliveries(seed, count):
        assert content(delivery)
        assert delivery.headers["Content-Type"].startswith("application/json")
        provider = delivery.thing.split("/")[0]
        assert delivery.path == f"/webhooks/{provider}"
        loopz_headers = sum(name.startswith("X-LOOPZ-") for name in delivery.headers)
        assert loopz_headers == (4 if provider == "loopz" else 0)


@few
@given(seeds)
def test_a_balance_is_never_negative_and_equals_what_its_completed_transactions_add_up_to(
    seed: int,
) -> None:
    added: Counter[str] = Counter()
    for delivery in deliveries(seed, 2_000, plain):
        body = content(delivery)
        if topic(delivery).startswith("transaction.") and body["status"] == "COMPLETED":
            sign = -1 if body["type"] == "REDEEM" else 1
            added[body["gift_card_id"]] += sign * body["amount"]["amount"]
        elif topic(delivery) == "gift-card.updated":
            assert body["balance"]["amount"] == added[body["id"]] >= 0


@few
@given(seeds)
def test_every_snapshot_of_a_card_has_the_status_that_its_balance_gives_it(seed: int) -> None:
    for delivery in deliveries(seed, 1_000, plain):
        if topic(delivery).startswith("gift-card."):
            body = content(delivery)
            assert body["status"] == ("ACTIVE" if body["balance"]["amount"] else "INACTIVE")


@few
@given(seeds)
def test_a_duplicate_equals_the_delivery_before_it_of_the_same_thing(seed: int) -> None:
    sent = list(deliveries(seed, 1_000, Rates(duplicate=0.3, late=0.3)))
    repeats = 0
    for history in by_thing(sent).values():
        assert history[0].note != "duplicate"
        for before, after in itertools.pairwise(history):
            if after.note == "duplicate":
                repeats += 1
                assert (after.headers, after.body) == (before.headers, before.body)
    assert repeats > 100


@few
@given(seeds)
def test_without_late_ones_the_time_of_a_thing_only_goes_forward(seed: int) -> None:
    for history in by_thing(list(deliveries(seed, 1_000, in_order))).values():
        times = [time for delivery in history if (time := provider_time(delivery))]
        assert all(before < after for before, after in itertools.pairwise(times))


@few
@given(seeds)
def test_a_late_delivery_comes_right_after_a_newer_one_of_its_thing(seed: int) -> None:
    late = 0
    for history in by_thing(list(deliveries(seed, 1_000, Rates(duplicate=0, late=0.3)))).values():
        for newer, older in itertools.pairwise(history):
            if older.note == "late":
                late += 1
                then, before = provider_time(newer), provider_time(older)
                assert then is None or before is None or before < then
        assert history[0].note != "late"
    assert late > 100


@pytest.mark.parametrize(("duplicate", "late", "fitbank"), [(0.02, 0.02, 0.25), (0.1, 0.2, 0.6)])
def test_the_shares_come_out_near_what_was_stated(
    duplicate: float, late: float, fitbank: float
) -> None:
    rates = Rates(duplicate=duplicate, late=late, fitbank=fitbank)
    sent = list(deliveries(1, 20_000, rates))
    notes = Counter(delivery.note for delivery in sent)
    assert notes["duplicate"] / 20_000 == pytest.approx(duplicate, rel=0.2)
    assert notes["late"] / 20_000 == pytest.approx(late, rel=0.2)
    from_fitbank = sum(topic(delivery) == "fitbank" for delivery in sent)
    assert from_fitbank / 20_000 == pytest.approx(fitbank, rel=0.05)


def test_every_topic_method_status_and_shape_of_the_providers_occurs() -> None:
    sent = list(deliveries(1, 20_000))
    assert {topic(delivery) for delivery in sent} == {
        "fitbank",
        *(f"gift-card.{what}" for what in ("created", "updated", "deleted")),
        *(f"transaction.{what}" for what in ("created", "updated", "deleted")),
        *(f"location.{what}" for what in ("created", "updated")),
    }
    bodies = [content(delivery) for delivery in sent if topic(delivery) == "fitbank"]
    assert {body["Method"] for body in bodies} == {
        "UpdatePurchaseClosedLoopStatusMongo",
        "UpdateDepositClosedLoopStatusMongo",
        "UpdateWithdrawalClosedLoopStatusMongo",
    }
    assert {body["Status"] for body in bodies} == {
        *("Created", "CanBePreAuthorized", "Authorized", "PreSettled", "Settled"),
        *("Canceled", "Error"),
    }
    assert {type(body["BusinessUnitId"]) for body in bodies} == {int, str}
    assert {type(body["TotalValue"]) for body in bodies} == {float, str}
    assert {body["Date"][-6:] for body in bodies} > {"-03:00"}
    names = {name for delivery in sent for name in json.loads(delivery.body)}
    assert names > {"gift_card", "transaction", "location", "giftCardId", "gift_card_id"}
    assert any(len(content(d)) == 1 for d in sent if topic(d) == "gift-card.deleted")


def test_many_things_are_under_way_at_once() -> None:
    """Between two deliveries of a thing there are others: lives do not follow one another."""
    sent = list(deliveries(1, 5_000, in_order))
    neighbours = sum(before.thing == after.thing for before, after in itertools.pairwise(sent))
    assert neighbours < 100


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"late is a share from 0 to 1, not 1.5"):
        Rates(late=1.5)
