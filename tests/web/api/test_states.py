"""Projected state as JSON: lists, single things, histories, the log."""

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client, values

if TYPE_CHECKING:
    from asyncpg import Connection, Record

CARD = {
    "id": "g-1",
    "code": "ABCD-EFGH-1234",
    "gan": "6006491234567890",
    "balance": {"amount": 2500, "currencyCode": "USD"},
    "type": "DIGITAL",
    "status": "ACTIVE",
    "created_on": "2026-01-01T10:00:00Z",
    "updated_on": "2026-01-01T10:00:00Z",
}


def spent(amount: int, updated_on: str) -> dict[str, Any]:
    return CARD | {"balance": {"amount": amount, "currencyCode": "USD"}, "updated_on": updated_on}


async def test_a_card_shows_its_balance_and_hides_its_secrets(client: Client) -> None:
    await client.loopz("gift-card.created", CARD)
    answer = await client.get("/v1/gift-cards/g-1?at_least=1")
    card = answer.json
    assert (card["balance"], card["currency"], card["type"]) == (2500, "USD", "DIGITAL")
    assert (card["code"], card["gan"]) == ("****1234", "****7890")
    assert (card["created_at"], card["deleted_at"]) == ("2026-01-01T10:00:00Z", None)
    assert b"ABCD" not in answer.body


async def test_a_short_secret_is_hidden_whole(client: Client) -> None:
    await client.loopz("gift-card.created", CARD | {"code": "1234567"})
    assert (await client.get("/v1/gift-cards/g-1?at_least=1")).json["code"] == "****"


async def test_a_deleted_card_stays_readable_with_its_time_of_deletion(client: Client) -> None:
    await client.loopz("gift-card.created", CARD)
    await client.loopz("gift-card.deleted", {"id": "g-1", "deleted_on": "2026-01-02T00:00:00Z"})
    card = (await client.get("/v1/gift-cards/g-1?at_least=2")).json
    assert (card["balance"], card["deleted_at"]) == (2500, "2026-01-02T00:00:00Z")
    assert len((await client.get("/v1/gift-cards?deleted=true")).json["items"]) == 1
    assert (await client.get("/v1/gift-cards?deleted=false")).json["items"] == []


async def test_transactions_of_both_providers_have_one_shape(client: Client) -> None:
    await client.fitbank(
        {
            "Method": "UpdatePurchaseClosedLoopStatusMongo",
            "BusinessUnitId": 66,
            "Status": "CanBePreAuthorized",
            "TotalValue": 20.00,
            "Date": "2024-08-19T18:59:15.403415-03:00",
            "TransactionIdentifier": "TRA1TRA",
        }
    )
    await client.loopz(
        "transaction.created",
        {"id": "t-1", "type": "REDEEM", "amount": {"amount": 1250, "currencyCode": "USD"}},
    )
    items = (await client.get("/v1/transactions?at_least=2")).json["items"]
    assert [set(item) for item in items] == [set(items[0])] * 2
    purchase, redeem = items
    assert (purchase["kind"], purchase["phase"], purchase["amount"]) == (
        "purchase",
        "created",
        "20.00",
    )
    assert purchase["updated_at"] == "2024-08-19T21:59:15.403415Z"
    assert (redeem["kind"], redeem["amount"], redeem["currency"]) == ("redeem", "12.50", "USD")


async def test_a_list_is_paged_without_overlap_to_its_end(client: Client) -> None:
    for n in range(7):
        await client.loopz("location.created", {"id": f"l-{n}"})
    seen: list[str] = []
    page = (await client.get("/v1/locations?limit=3&at_least=7")).json
    while page["items"]:
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        page = (await client.get(f"/v1/locations?limit=3&cursor={page['next']}")).json
    assert seen == [f"l-{n}" for n in range(7)]


async def test_a_list_is_filtered_by_the_columns_of_its_projection(client: Client) -> None:
    await client.loopz("location.created", {"id": "a", "status": "ACTIVE"})
    await client.loopz("location.created", {"id": "b", "status": "INACTIVE"})
    await client.loopz("location.created", {"id": "c", "status": "ACTIVE"}, merchant="m-2")
    answer = await client.get("/v1/locations?status=ACTIVE&merchant_id=m-1&at_least=3")
    assert [item["id"] for item in answer.json["items"]] == ["a"]


async def test_an_id_of_two_merchants_is_ambiguous_until_one_is_named(client: Client) -> None:
    await client.loopz("location.created", {"id": "l-1", "name": "One"}, merchant="m-1")
    await client.loopz("location.created", {"id": "l-1", "name": "Two"}, merchant="m-2")
    answer = await client.get("/v1/locations/l-1?at_least=2")
    assert answer.status == 409
    assert answer.json["holders"] == [
        {"provider": "loopz", "merchant_id": "m-1"},
        {"provider": "loopz", "merchant_id": "m-2"},
    ]
    assert (await client.get("/v1/locations/l-1?merchant_id=m-2")).json["name"] == "Two"
    assert (await client.get("/v1/locations/l-1/history")).status == 409
    assert (await client.get("/v1/locations/l-1/history?merchant_id=m-2")).status == 200


@pytest.mark.parametrize("id_", ["a/b", "ü 1", "50%", "~none", "x" * 300])
async def test_an_id_of_any_characters_is_found_by_its_encoded_path(
    client: Client, id_: str
) -> None:
    await client.loopz("location.created", {"id": id_})
    answer = await client.get(f"/v1/locations/{quote(id_, safe='')}?at_least=1")
    assert answer.json["id"] == id_


async def test_a_history_tells_what_each_event_did(client: Client) -> None:
    await client.loopz("gift-card.created", CARD)
    await client.loopz("gift-card.updated", spent(1000, "2026-01-03T00:00:00Z"))
    await client.loopz("gift-card.updated", spent(1000, "2026-01-03T00:00:00Z"))
    await client.loopz("gift-card.updated", spent(1700, "2026-01-02T00:00:00Z"))
    await client.loopz("gift-card.updated", CARD | {"balance": "much"})
    await client.loopz("gift-card.exploded", CARD)
    steps = (await client.get("/v1/gift-cards/g-1/history?at_least=6")).json["items"]
    assert [(step["position"], step["verdict"]) for step in steps] == [
        (1, "applied"),
        (2, "applied"),
        (3, "duplicate"),
        (4, "stale"),
        (5, "quarantined"),
        (6, "ignored"),
    ]
    assert steps[1]["changes"] == {
        "balance": {"before": 2500, "after": 1000},
        "updated_at": {"before": "2026-01-01T10:00:00Z", "after": "2026-01-03T00:00:00Z"},
    }
    assert [step["changes"] for step in steps[2:]] == [{}] * 4
    assert "balance" in steps[4]["error"]


async def test_a_history_tells_why_an_event_did_not_apply(client: Client) -> None:
    card = {"id": "g-1", "balance": 2500, "updated_on": "2026-01-02T00:00:00Z"}
    await client.loopz("gift-card.updated", card)
    await client.loopz("gift-card.updated", card | {"balance": 1000})
    await client.loopz("gift-card.updated", card)
    await client.loopz("gift-card.created", card | {"code": "C", "updated_on": "2026-01-01"})
    await client.loopz("gift-card.deleted", {"id": "g-1", "deleted_on": "2026-01-03T00:00:00Z"})
    await client.loopz("gift-card.updated", {"id": "g-1", "balance": 900})
    steps = (await client.get("/v1/gift-cards/g-1/history?at_least=6")).json["items"]
    told = ("verdict", "decided_by", "reason", "effective_from")
    assert [tuple(step[name] for name in told) for step in steps] == [
        ("applied", None, None, "provider"),
        ("tie", None, None, "provider"),
        ("duplicate", 1, None, "provider"),
        ("late", 2, None, "provider"),
        ("applied", None, None, "provider"),
        ("applied", 5, "after-deletion", "recorded"),
    ]
    assert steps[3]["changes"].keys() == {"code"}
    assert [step["effective_at"] for step in steps[3:5]] == [
        "2026-01-01T00:00:00Z",
        "2026-01-03T00:00:00.999999Z",
    ]
    assert steps[5]["effective_at"] == steps[5]["recorded_at"]


async def test_a_history_hides_secrets(client: Client) -> None:
    await client.loopz("gift-card.created", CARD)
    answer = await client.get("/v1/gift-cards/g-1/history?at_least=1")
    assert answer.json["items"][0]["changes"]["code"] == {"before": None, "after": "****1234"}
    assert b"ABCD" not in answer.body


async def test_a_history_is_paged_by_position(client: Client) -> None:
    for n in range(5):
        await client.loopz("location.updated", {"id": "l-1", "name": f"Name {n}"})
    one = (await client.get("/v1/locations/l-1/history?limit=3&at_least=5")).json
    two = (await client.get(f"/v1/locations/l-1/history?limit=3&cursor={one['next']}")).json
    positions = [step["position"] for step in one["items"] + two["items"]]
    assert (positions, two["next"]) == ([1, 2, 3, 4, 5], None)


async def test_a_history_goes_on_where_it_was_told_before(start: StartLoopledger) -> None:
    names = [f"Name {n}" for n in range(40)]
    async with (
        # Of a history, few events are kept.
        start(limits=Limits(history_bytes=20_000)) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        told: list[dict[str, Any]] = []
        for position, name in enumerate(names, 1):
            await client.loopz("location.updated", {"id": "l-1", "name": name})
            path = f"/v1/locations/l-1/history?at_least={position}"
            now = (await client.get(path)).json["items"]
            deep = (await client.get(f"{path}&cursor={position // 2}&limit=3")).json
            assert now[:-1] == told
            assert deep["items"] == now[position // 2 :][:3]
            assert deep["next"] == (position // 2 + 3 if position - position // 2 > 3 else None)
            told = now
    assert [step["changes"]["name"]["after"] for step in told] == names


async def test_equal_bodies_apart_are_no_duplicates(client: Client) -> None:
    for status in ("ACTIVE", "INACTIVE", "ACTIVE"):
        await client.loopz("location.updated", {"id": "l-1", "status": status})
    steps = (await client.get("/v1/locations/l-1/history?at_least=3")).json["items"]
    assert [step["verdict"] for step in steps] == ["applied"] * 3
    assert (await client.get("/v1/locations/l-1")).json["status"] == "ACTIVE"


async def test_a_thing_of_which_all_is_in_quarantine_still_has_a_history(client: Client) -> None:
    await client.loopz("gift-card.created", CARD | {"balance": "much"})
    (step,) = (await client.get("/v1/gift-cards/g-1/history?at_least=1")).json["items"]
    assert step["verdict"] == "quarantined"
    assert (await client.get("/v1/gift-cards/g-1")).status == 404


async def test_the_log_is_listed_in_order_page_by_page(client: Client) -> None:
    for n in range(5):
        await client.loopz("location.updated", {"id": f"l-{n}"})
    one = (await client.get("/v1/events?limit=3")).json
    two = (await client.get(f"/v1/events?cursor={one['next']}&limit=3")).json
    assert [event["position"] for event in one["items"] + two["items"]] == [1, 2, 3, 4, 5]
    assert two["next"] is None


async def test_at_least_waits_for_a_position_that_is_yet_to_come(client: Client) -> None:
    reading = asyncio.create_task(client.get("/v1/locations/l-1?at_least=1"))
    await asyncio.sleep(0.1)
    await client.loopz("location.updated", {"id": "l-1"})
    assert (await reading).status == 200


async def test_at_least_does_not_wait_for_ever(start: StartLoopledger) -> None:
    async with (
        start(limits=Limits(at_least_seconds=0.1)) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        answer = await Client(session).get("/v1/locations?at_least=1")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (answer.json["checkpoint"], answer.json["position"]) == (0, 1)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/gift-cards?limit=0", "limit"),
        ("/v1/gift-cards?limit=1001", "limit"),
        ("/v1/gift-cards?limit=x", "limit"),
        ("/v1/gift-cards?limit=1&limit=2", "limit"),
        ("/v1/gift-cards?cursor=%21", "cursor"),
        ("/v1/gift-cards?colour=red", "colour"),
        ("/v1/gift-cards?deleted=perhaps", "deleted"),
        ("/v1/gift-cards?at_least=-1", "at_least"),
        ("/v1/gift-cards?at_least=99999999999999999999", "at_least"),
        ("/v1/gift-cards/%00", "id"),
        ("/v1/events?after=x", "after"),
        ("/v1/events/zero", "position"),
        ("/v1/events/0", "position"),
        ("/v1/gift-cards/x/history?cursor=abc", "cursor"),
    ],
)
async def test_a_wrong_parameter_is_named(client: Client, path: str, word: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.json["parameter"]) == (400, word)


@pytest.mark.parametrize(
    "path",
    ["/v1/gift-cards/none", "/v1/locations/none/history", "/v1/events/1", "/v1/events/1/body"],
)
async def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 404


async def test_projections_account_for_every_event(client: Client) -> None:
    await client.loopz("gift-card.created", CARD)
    await client.loopz("location.updated", {})
    await client.loopz("weather.changed", {})
    for kind in ("gift-cards", "transactions", "locations"):
        await client.get(f"/v1/{kind}?at_least=3")
    counts = {
        item["name"]: (item["folded"], item["ignored"], item["quarantined"], item["lag"])
        for item in (await client.get("/v1/projections")).json["items"]
    }
    assert counts == {
        "gift_cards": (1, 2, 0, 0),
        "locations": (0, 2, 1, 0),
        "transactions": (0, 3, 0, 0),
    }


async def test_a_healthy_server_says_so(client: Client) -> None:
    assert (await client.get("/healthz")).json == {
        "status": "ok",
        "server": "loopledger",
    }
    assert (await client.get("/readyz")).json == {"status": "ready"}


async def test_a_view_by_the_projections_name_shows_its_states_to_sql(
    client: Client, connection: "Connection[Record]"
) -> None:
    await client.loopz("gift-card.created", CARD)
    await client.get("/v1/gift-cards?at_least=1")
    rows = await connection.fetch("SELECT id, balance, currency FROM gift_cards")
    assert values(rows) == [("g-1", 2500, "USD")]
