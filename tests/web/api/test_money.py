"""Amounts over HTTP, in minor and major units of their currencies."""

import csv
import io

import aiohttp
import pytest

from providers.loopz import Merchant
from providers.loopz import Settings as Loopz
from tests.conftest import StartLoopledger
from tests.support import Client

# Of m'{0} a KWD has two digits, and of nobody is it known what XAU has.
MERCHANT = "m'{0}"
RULES = {
    "loopz": Loopz(minor_units={"CLP": 2}, merchants={MERCHANT: Merchant(minor_units={"KWD": 2})})
}

# Merchant, currency and balance of a card; its digits and what it is worth in major units.
CARDS = [
    ("m-1", "USD", 7000, 2, "70.00"),
    ("m-1", "USD", -1, 2, "-0.01"),
    ("m-1", "USD", 0, 2, "0.00"),
    ("m-1", "JPY", 7000, 0, "7000"),
    ("m-1", "KWD", 7000, 3, "7.000"),
    ("m-1", "CLP", 7000, 2, "70.00"),
    ("m-1", "XAU", 7000, None, None),
    ("m-1", None, 7000, None, None),
    ("m-1", "USD", None, 2, None),
    ("m-1", "USD", 2**63 - 1, 2, "92233720368547758.07"),
    (MERCHANT, "KWD", 7000, 2, "70.00"),
    (MERCHANT, "USD", 7000, 2, "70.00"),
]


@pytest.fixture
async def told(start: StartLoopledger) -> "list[tuple[object, ...]]":
    """The cards as CSV and as JSON tell of them: digits and major units, which have to be alike."""
    async with (
        start(providers=RULES) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        for number, (merchant, currency, balance, *_) in enumerate(CARDS):
            body = {
                "id": f"c-{number:02}",
                "balance": {"amount": balance, "currencyCode": currency},
            }
            answer = await client.loopz("gift-card.created", body, merchant=merchant)
            assert answer.status == 200, answer.body
        page = await client.get(f"/v1/gift-cards?at_least={len(CARDS)}")
        found = {card["id"]: card for card in page.json["items"]}
        one = await client.get("/v1/gift-cards/c-04")
        assert one.json == found["c-04"]
        table = await client.request("GET", "/v1/gift-cards", headers={"Accept": "text/csv"})
        for row in csv.DictReader(io.StringIO(table.body.decode(), newline="")):
            card = found[row["id"]]
            assert row["balance_major"] == (card["balance_major"] or "")
            assert row["minor_units"] == (
                "" if card["minor_units"] is None else str(card["minor_units"])
            )
        return [(found[id_]["minor_units"], found[id_]["balance_major"]) for id_ in sorted(found)]


async def test_a_balance_is_told_in_minor_and_in_major_units(
    told: "list[tuple[object, ...]]",
) -> None:
    assert told == [(digits, major) for *_, digits, major in CARDS]


async def test_a_transaction_says_how_many_digits_its_currency_has(client: Client) -> None:
    body = {"id": "t-1", "amount": {"amount": 7000, "currency_code": "KWD"}}
    answer = await client.loopz("transaction.created", body)
    assert answer.status == 200, answer.body
    found = await client.get("/v1/transactions/t-1?at_least=1")
    assert (found.json["minor_units"], found.json["amount"]) == (3, "7.000")
