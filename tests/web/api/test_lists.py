"""Lists over HTTP: filters, sorts, pages and fields; and what a key of one merchant sees of them."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from structlog.testing import capture_logs

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.keys import key_in
from tests.support.rebuilding import eventually

CARDS = (
    ("g-1", 500, "USD", "ACTIVE", "2026-01-03T00:00:00Z"),
    ("g-2", 0, "EUR", "ACTIVE", "2026-01-01T00:00:00Z"),
    ("g-3", 500, "USD", "BLOCKED", "2026-01-02T00:00:00Z"),
    ("g-4", 9000, "USD", "ACTIVE", "2026-01-04T00:00:00Z"),
)


async def deliver(client: Client) -> None:
    """Put cards on record, one without a balance and one that is deleted, transactions and locations."""
    for id_, amount, currency, status, updated in CARDS:
        balance = {"amount": amount, "currencyCode": currency}
        card = {"id": id_, "balance": balance, "status": status, "updated_on": updated}
        secrets = {"gan": f"60064912345678{id_}", "code": f"CODE-{id_}"}
        await client.loopz("gift-card.created", card | secrets)
    await client.loopz("gift-card.created", {"id": "g-5", "updated_on": "2026-01-05T00:00:00Z"})
    await client.loopz("gift-card.created", {"id": "g-6", "updated_on": "2026-01-06T00:00:00Z"})
    await client.loopz("gift-card.deleted", {"id": "g-6", "deleted_on": "2026-01-07T00:00:00Z"})
    await client.loopz(
        "location.created",
        {"id": "l-1", "name": "Caffè Nero, Soho", "external_id": "SH-01"},
        merchant="m-2",
    )
    await client.loopz(
        "location.created", {"id": "l-2", "name": "O'Brien's Café", "external_id": "SH-02"}
    )
    await client.get("/v1/locations?at_least=9")
    await client.get("/v1/gift-cards?at_least=9")


async def ids(client: Client, path: str) -> list[str]:
    answer = await client.get(path)
    assert answer.status == 200, answer.body
    return [item["id"] for item in answer.json["items"]]


@pytest.fixture(scope="module")
def questions() -> dict[str, list[str]]:
    """What is asked, and what is found."""
    cards, locations = "/v1/gift-cards", "/v1/locations"
    return {
        f"{cards}": ["g-1", "g-2", "g-3", "g-4", "g-5"],
        f"{cards}?deleted=any": ["g-1", "g-2", "g-3", "g-4", "g-5", "g-6"],
        f"{cards}?deleted=true": ["g-6"],
        f"{cards}?sort=-id&limit=2": ["g-5", "g-4"],
        f"{cards}?sort=position": ["g-1", "g-2", "g-3", "g-4", "g-5"],
        f"{cards}?sort=-position&deleted=any": ["g-6", "g-5", "g-4", "g-3", "g-2", "g-1"],
        f"{cards}?sort=effective_at": ["g-2", "g-3", "g-1", "g-4", "g-5"],
        f"{cards}?sort=-effective_at&deleted=any": ["g-6", "g-5", "g-4", "g-1", "g-3", "g-2"],
        f"{cards}?status=ACTIVE&currency=USD": ["g-1", "g-4"],
        f"{cards}?min_balance=0&max_balance=500": ["g-1", "g-2", "g-3"],
        f"{cards}?max_balance=0": ["g-2"],
        f"{cards}?min_balance=-5": ["g-1", "g-2", "g-3", "g-4"],
        f"{cards}?effective_since=2026-01-02T00:00:00Z&effective_before=2026-01-04T00:00:00Z": [
            "g-1",
            "g-3",
        ],
        f"{cards}?effective_since=2026-01-04T01:00:00%2B01:00": ["g-4", "g-5"],
        f"{cards}?merchant_id=m-2": [],
        f"{cards}?provider=loopz&id=g-2": ["g-2"],
        f"{locations}?search=nero": ["l-1"],
        f"{locations}?search=so%20caff%C3%A8": ["l-1"],
        f"{locations}?search=o'brien": ["l-2"],
        f"{locations}?search=SH-": ["l-1", "l-2"],
        f"{locations}?search=sh-01": [],
        f"{locations}?search=%25": [],
        f"{locations}?search=%5C'%20%26%20%7C%20!%20(": [],
        f"{locations}?external_id=SH-02": ["l-2"],
    }


async def test_a_list_has_what_its_filters_hold_for_in_the_order_of_its_sort(
    client: Client, questions: dict[str, list[str]]
) -> None:
    await deliver(client)
    found = {path: sorted_if_unsorted(path, await ids(client, path)) for path in questions}
    assert found == questions
    # Those of one balance come in one order or the other, but together; without one, first.
    balances = await ids(client, "/v1/gift-cards?sort=balance")
    assert (balances[:2], set(balances[2:4]), balances[4]) == (
        ["g-5", "g-2"],
        {"g-1", "g-3"},
        "g-4",
    )
    assert await ids(client, "/v1/gift-cards?sort=-balance") == balances[::-1]


def sorted_if_unsorted(path: str, found: list[str]) -> list[str]:
    return found if "sort=" in path else sorted(found)


async def test_fields_are_those_that_are_asked_for_in_that_order(client: Client) -> None:
    await deliver(client)
    (card, *_) = (await client.get("/v1/gift-cards?fields=balance,code,id")).json["items"]
    assert list(card.items()) == [
        ("balance", 500),
        ("code", "****-g-1"),
        ("id", "g-1"),
    ]
    one = await client.get("/v1/gift-cards/g-1?fields=balance,code,id")
    assert one.json == card
    refused = await client.get("/v1/gift-cards?fields=id,colour")
    assert (refused.status, refused.json["parameter"]) == (400, "fields")
    assert "balance" in refused.json["detail"]


@pytest.mark.parametrize("sort", ["id", "-id", "position", "-balance", "balance", "-effective_at"])
async def test_the_link_of_each_page_leads_to_the_next(client: Client, sort: str) -> None:
    await deliver(client)
    whole = await ids(client, f"/v1/gift-cards?sort={sort}&deleted=any")
    path, found = f"/v1/gift-cards?sort={sort}&deleted=any&limit=2", list[str]()
    while path:
        answer = await client.get(path)
        found += [item["id"] for item in answer.json["items"]]
        link = answer.headers.get("Link", "")
        assert bool(link) == (answer.json["next"] is not None)
        path = link.removeprefix("<").partition(">")[0]
        assert link.endswith('>; rel="next"') or not link
    assert found == whole


async def test_a_cursor_is_refused_where_something_else_is_asked(client: Client) -> None:
    await deliver(client)
    cursor = (await client.get("/v1/gift-cards?sort=balance&limit=1")).json["next"]
    for other in (
        "sort=-balance",
        "sort=id",
        "sort=balance&status=ACTIVE",
        "sort=balance&deleted=any",
    ):
        answer = await client.get(f"/v1/gift-cards?{other}&cursor={cursor}")
        assert (answer.status, answer.json["parameter"]) == (400, "cursor"), other
    assert (
        await client.get(f"/v1/gift-cards?sort=balance&fields=id&cursor={cursor}")
    ).status == 200


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sort=colour", "-balance"),
        ("deleted=maybe", "any"),
        ("min_balance=1.5", "whole number"),
        ("effective_since=yesterday", "2026-10-31T00:00:00Z"),
        ("effective_since=2026-01-01", "RFC 3339"),
        ("effective_since=2026-02-30T00:00:00Z", "RFC 3339"),
        ("recorded_since=2026-01-01T00:00:00", "RFC 3339"),
    ],
)
async def test_a_wrong_value_is_told_what_is_right(client: Client, query: str, named: str) -> None:
    answer = await client.get(f"/v1/gift-cards?{query}")
    assert (answer.status, answer.json["parameter"]) == (400, query.partition("=")[0])
    assert named in answer.json["detail"]


async def test_an_amount_is_bounded_by_decimals(client: Client) -> None:
    for id_, amount in (("t-1", 1250), ("t-2", 1251), ("t-3", 99_999_999_999)):
        body = {"id": id_, "type": "REDEEM", "amount": {"amount": amount, "currencyCode": "USD"}}
        await client.loopz("transaction.created", body)
    await client.get("/v1/transactions?at_least=3")
    assert await ids(client, "/v1/transactions?min_amount=12.505") == ["t-2", "t-3"]
    assert await ids(client, "/v1/transactions?max_amount=12.50") == ["t-1"]
    assert (await client.get("/v1/transactions?min_amount=1e5")).status == 400
    unknown = await client.get("/v1/transactions?phase=perhaps")
    assert unknown.status == 400
    assert "settled" in unknown.json["detail"]


async def positions(client: Client, path: str) -> list[int]:
    answer = await client.get(path)
    assert answer.status == 200, answer.body
    return [item["position"] for item in answer.json["items"]]


async def test_events_are_listed_by_what_is_on_record_of_them(client: Client) -> None:
    await deliver(client)
    events = (await client.get("/v1/events")).json["items"]
    fifth = quote(events[4]["recorded_at"])
    later = quote((datetime.fromisoformat(events[8]["recorded_at"]) + timedelta(1)).isoformat())
    stream = quote(events[5]["stream"], safe="")
    assert {
        path: await positions(client, f"/v1/events?{path}")
        for path in (
            *("", "sort=-position", "sort=-position&limit=2", "after=7", "merchant_id=m-2"),
            *("topic=gift-card.deleted", "provider=fitbank", f"stream={stream}"),
            *(f"recorded_since={fifth}", f"recorded_before={fifth}&sort=-position"),
            *(f"stream={stream}&sort=-position&limit=1", f"recorded_since={later}"),
        )
    } == {
        "": [1, 2, 3, 4, 5, 6, 7, 8, 9],
        "sort=-position": [9, 8, 7, 6, 5, 4, 3, 2, 1],
        "sort=-position&limit=2": [9, 8],
        "after=7": [8, 9],
        "merchant_id=m-2": [8],
        "topic=gift-card.deleted": [7],
        "provider=fitbank": [],
        f"stream={stream}": [6, 7],
        f"recorded_since={fifth}": [5, 6, 7, 8, 9],
        f"recorded_before={fifth}&sort=-position": [4, 3, 2, 1],
        f"stream={stream}&sort=-position&limit=1": [7],
        f"recorded_since={later}": [],
    }
    assert await ids(client, f"/v1/gift-cards?recorded_since={fifth}&deleted=any") == ["g-5", "g-6"]
    assert await ids(client, f"/v1/gift-cards?recorded_before={fifth}") == [
        *("g-1", "g-2", "g-3", "g-4")
    ]


@pytest.mark.parametrize("query", ["", "topic=gift-card.created", "sort=-position"])
async def test_events_are_paged_to_their_end(client: Client, query: str) -> None:
    await deliver(client)
    whole = await positions(client, f"/v1/events?{query}")
    found, cursor = list[int](), ""
    while True:
        page = (await client.get(f"/v1/events?{query}&limit=2{cursor}")).json
        found += [item["position"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == whole


async def test_quarantine_and_generations_are_filtered(client: Client) -> None:
    for merchant in ("m-1", "m/2"):
        await client.loopz("gift-card.created", {"id": "x", "balance": "much"}, merchant=merchant)
    await client.get("/v1/gift-cards?at_least=2")
    path = "/v1/projections/gift_cards/quarantine"
    assert await positions(client, path) == [1, 2]
    assert await positions(client, f"{path}?merchant_id=m%2F2") == [2]
    assert await positions(client, f"{path}?sort=-position&limit=1") == [2]
    live = (await client.get("/v1/generations?status=live&fields=name,generation")).json["items"]
    assert [one["name"] for one in live] == ["gift_cards", "locations", "transactions"]
    assert (await client.get("/v1/generations?status=retired")).json["items"] == []
    unknown = await client.get("/v1/generations?status=dead")
    assert "catching-up" in unknown.json["detail"]


async def test_rejections_come_the_newest_first_and_are_filtered(client: Client) -> None:
    await client.loopz("location.created", b"no JSON")
    await client.request("POST", "/webhooks/fitbank", data=b"none here either")

    async def listed(query: str) -> list[int]:
        items = (await client.get(f"/v1/rejections{query}")).json["items"]
        return [item["id"] for item in items]

    async def both_are_there() -> bool:
        return len(await listed("")) == 2

    await eventually(both_are_there)
    assert await listed("") == [2, 1]
    assert await listed("?sort=id") == [1, 2]
    assert await listed("?cause=UNPARSABLE&verified=true&limit=1") == [2]
    assert len(await listed("?provider=fitbank")) == 1
    assert await listed("?verified=false") == []


async def test_a_key_of_one_merchant_lists_only_what_is_of_it(
    start: StartLoopledger, dsn: str
) -> None:
    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        everything = Client(session)
        await deliver(everything)
        await everything.loopz("gift-card.created", {"id": "y", "balance": "?"}, merchant="m-2")
        await everything.get("/v1/gift-cards?at_least=10")
        bound = Client(session, await key_in(dsn, "read", merchants=["m-2"]))
        two = Client(session, await key_in(dsn, "read", merchants=["m-1", "m-2"]))
        for query in ("", "?sort=-position", "?sort=effective_at", "?search=SH-", "?deleted=any"):
            assert await ids(bound, f"/v1/locations{query}") == ["l-1"]
            assert sorted(await ids(two, f"/v1/locations{query}")) == ["l-1", "l-2"]
        assert await ids(bound, "/v1/locations?merchant_id=m-1") == []
        assert await positions(bound, "/v1/events") == [8, 10]
        assert await positions(bound, "/v1/events?sort=-position&limit=1") == [10]
        assert await positions(bound, "/v1/projections/gift_cards/quarantine") == [10]
        for path in ("/v1/events/1", "/v1/projections/gift_cards/quarantine/1"):
            assert (await bound.get(path)).status == 404
        for path in ("/v1/rejections", "/v1/generations"):
            assert (await bound.get(path)).status == 403


async def search(client: Client, **body: Any) -> Any:  # noqa: ANN401 - an answer
    return await client.request("POST", "/v1/gift-cards/search", json=body)


async def test_a_card_is_found_by_its_whole_number_or_code_and_shown_masked(
    start: StartLoopledger, dsn: str
) -> None:
    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        await deliver(Client(session))
        finder = Client(session, await key_in(dsn, "read", "reveal", "find"))
        reader = Client(session, await key_in(dsn, "read", "reveal"))
        bound = Client(session, await key_in(dsn, "find", merchants=["m-2"]))
        for body in ({"gan": "60064912345678g-2"}, {"code": "CODE-g-2"}):
            answer = await search(finder, **body)
            assert [item["id"] for item in answer.json["items"]] == ["g-2"]
            assert b"CODE" not in answer.body
        assert (await search(reader, gan="60064912345678g-2")).status == 403
        assert (await search(bound, gan="60064912345678g-2")).json["items"] == []
        wrong: list[dict[str, Any]] = [{}, {"gan": "1", "code": "2"}, {"id": "g-1"}, {"gan": ""}]
        for given in (*wrong, {"gan": 5}):
            assert (await search(finder, **given)).status == 400, given


async def test_searches_that_find_nothing_are_logged_without_their_value_and_limited(
    start: StartLoopledger, dsn: str
) -> None:
    limits = Limits(find_misses_at_once=3, poll_seconds=0.05)
    async with start(limits=limits) as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        await deliver(Client(session))
        finder = Client(session, await key_in(dsn, "find", name="till"))
        other = Client(session, await key_in(dsn, "find"))
        with capture_logs() as logged:
            statuses = [(await search(finder, gan="6006-guess")).status for _ in range(2)]
            # What is found costs nothing.
            statuses += [(await search(finder, code="CODE-g-1")).status for _ in range(5)]
            statuses += [(await search(finder, gan="6006-guess")).status for _ in range(2)]
        assert statuses == [200] * 8 + [429]
        assert (await search(other, gan="6006-guess")).status == 200
    missed = [one for one in logged if one["event"] == "secret_not_found"]
    assert [(one["key"], one["field"]) for one in missed] == [("till", "gan")] * 3
    assert "6006-guess" not in str(logged)
