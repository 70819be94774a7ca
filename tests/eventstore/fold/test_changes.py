"""Views of what changed: an entry for every fact that changed a balance or a status, in the order of their times."""

from typing import TYPE_CHECKING

from eventstore.log.queries import QUERIES as LOG
from tests.support import Client, values

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def send_card(client: Client, topic: str = "gift-card.updated", **fields: object) -> int:
    answer = await client.loopz(topic, {"id": "c-1", **fields})
    position: int = answer.json["position"]
    return position


async def send_status(client: Client, status: str | None, identifier: str = "t-1") -> int:
    answer = await client.fitbank(
        {
            "Method": "UpdatePurchaseClosedLoopStatusMongo",
            "BusinessUnitId": 66,
            "TransactionIdentifier": identifier,
            **({} if status is None else {"Status": status}),
        }
    )
    position: int = answer.json["position"]
    return position


async def entries(
    client: Client, connection: "Connection[Record]", path: str, query: str
) -> list[tuple[object, ...]]:
    head = await connection.fetchval(LOG["read_head"])
    assert (await client.get(f"{path}?at_least={head}")).status == 200
    return values(await connection.fetch(query))


BALANCES = (
    "SELECT position, before, after, delta, currency, fact FROM balance_changes"
    " ORDER BY effective_at, position, after NULLS FIRST"
)
STATUSES = 'SELECT position, "from", "to", phase FROM status_changes ORDER BY 1'


async def test_every_change_of_a_balance_is_an_entry_and_nothing_else_is(
    client: Client, connection: "Connection[Record]"
) -> None:
    await send_card(client, "gift-card.created", balance={"amount": 5000, "currencyCode": "EUR"})
    await send_card(client, balance={"amount": 5000, "currencyCode": "EUR"})
    await send_card(client, status="ACTIVE")
    await send_card(client, balance={"amount": 1250, "currencyCode": "EUR"})
    await send_card(client, "gift-card.deleted")
    assert await entries(client, connection, "/v1/gift-cards", BALANCES) == [
        (1, None, 5000, 5000, "EUR", "creation"),
        (4, 5000, 1250, -3750, "EUR", "change"),
        (5, 1250, None, -1250, "EUR", "deletion"),
    ]


async def test_the_entries_of_a_card_add_up_to_its_balance(
    client: Client, connection: "Connection[Record]"
) -> None:
    for amount in (5000, 4000, 0, 700):
        await send_card(client, balance={"amount": amount, "currencyCode": "EUR"})
    query = "SELECT sum(delta), min(recorded_at) = max(recorded_at) FROM balance_changes"
    assert await entries(client, connection, "/v1/gift-cards", query) == [(700, False)]


async def test_what_comes_late_stands_where_it_counts(
    client: Client, connection: "Connection[Record]"
) -> None:
    for day, amount in ((2, 10), (1, 20), (3, 10), (1, 20)):
        await send_card(client, balance={"amount": amount}, updated_on=f"2026-01-0{day}T00:00:00Z")
    assert await entries(client, connection, "/v1/gift-cards", BALANCES) == [
        (2, None, 20, 20, None, "change"),
        (1, 20, 10, -10, None, "change"),
    ]


async def test_what_leaves_a_balance_out_keeps_it_and_what_returns_begins_with_nothing(
    client: Client, connection: "Connection[Record]"
) -> None:
    money = {"amount": 10, "currencyCode": "EUR"}
    await send_card(client, balance=money, updated_on="2026-01-01T00:00:00Z")
    await send_card(client, status="ACTIVE", updated_on="2026-01-02T00:00:00Z")
    await send_card(client, "gift-card.deleted", deleted_on="2026-01-03T00:00:00Z")
    await send_card(client, balance=money | {"amount": 7}, updated_on="2026-01-04T00:00:00Z")
    await send_card(
        client,
        "gift-card.created",
        created_on="2026-01-01T00:00:00Z",
        updated_on="2026-01-05T00:00:00Z",
    )
    await send_card(client, balance=money | {"amount": 3}, updated_on="2026-01-06T00:00:00Z")
    assert await entries(client, connection, "/v1/gift-cards", BALANCES) == [
        (1, None, 10, 10, "EUR", "change"),
        (3, 10, None, -10, "EUR", "deletion"),
        (6, None, 3, 3, "EUR", "change"),
    ]
    totals = (
        "SELECT effective_at::date::text, sum(sum(amount)) OVER (ORDER BY effective_at)::bigint"
        " FROM gift_cards_postings GROUP BY effective_at ORDER BY 1"
    )
    assert values(await connection.fetch(totals)) == [
        ("2026-01-01", 10),
        ("2026-01-03", 0),
        ("2026-01-06", 3),
    ]


async def test_another_currency_is_two_entries_and_two_postings(
    client: Client, connection: "Connection[Record]"
) -> None:
    await send_card(client, balance={"amount": 10, "currencyCode": "EUR"})
    await send_card(client, balance={"amount": 10, "currencyCode": "USD"})
    assert await entries(client, connection, "/v1/gift-cards", BALANCES) == [
        (1, None, 10, 10, "EUR", "change"),
        (2, 10, None, -10, "EUR", "change"),
        (2, None, 10, 10, "USD", "change"),
    ]
    postings = "SELECT position, currency, amount FROM gift_cards_postings ORDER BY 1, 2"
    assert values(await connection.fetch(postings)) == [
        (1, "EUR", 10),
        (2, "EUR", -10),
        (2, "USD", 10),
    ]


async def test_every_change_of_a_status_is_an_entry_with_its_phase(
    client: Client, connection: "Connection[Record]"
) -> None:
    for status in ("Created", "Created", "Authorized", "Settled"):
        await send_status(client, status)
    assert await entries(client, connection, "/v1/transactions", STATUSES) == [
        (1, None, "Created", "created"),
        (3, "Created", "Authorized", "authorized"),
        (4, "Authorized", "Settled", "settled"),
    ]


async def test_a_transaction_that_begins_without_a_status_has_an_entry(
    client: Client, connection: "Connection[Record]"
) -> None:
    await send_status(client, None)
    assert await entries(client, connection, "/v1/transactions", STATUSES) == [
        (1, None, None, "unknown")
    ]
