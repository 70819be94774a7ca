"""A mended decoder mends the past: states and histories are as though it had always been right."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventstore.log.events import Event
from eventstore.postgres.database import Database
from providers import fitbank, loopz, loopz_bodies
from providers.facts import Fact
from tests.conftest import StartLoopledger
from tests.support import Client, new_event, values
from tests.support.folding import append
from tests.support.rebuilding import (
    CARDS,
    CASH,
    differences,
    level,
    post,
    ready,
    running,
    until,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record

REFILED = "SELECT position, stream, refiled_to FROM refiled WHERE generation = 2 ORDER BY position"


async def state(client: Client, id_: str) -> Any:  # noqa: ANN401 - JSON
    """What a card is now, less what is null."""
    shown = (await client.get(f"/v1/gift-cards/{id_}")).json
    return {n: shown[n] for n in ("stream", "position", "balance", "status") if shown.get(n)}


async def history(client: Client, id_: str) -> list[tuple[int, str]]:
    """What became of each event of a card."""
    items = (await client.get(f"/v1/gift-cards/{id_}/history")).json["items"]
    return [(item["position"], item["verdict"]) for item in items]


async def promoted(client: Client, path: str) -> Any:  # noqa: ANN401 - JSON
    """Rebuild and promote; gives back the rebuild as it was when it was ready."""
    found = await ready(client, path)
    await post(client, f"{path}/promote")
    await until(client, path, lambda one: one["generation"] == found["generation"])
    return found


def at(minute: int) -> str:
    """A time of that minute."""
    return f"2026-01-01T12:{minute:02}:00Z"


async def update(
    client: Client, id_: str, *, wrapper: str | None = "giftCard", **body: object
) -> None:
    card = {"id": id_, **body}
    await client.loopz("gift-card.updated", {wrapper: card} if wrapper else card)


def unaware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the decoder know nothing of the wrapper `giftCard`."""
    known = {**loopz_bodies.WRAPPERS, "gift-card": ("gift_card",)}
    monkeypatch.setattr(loopz_bodies, "WRAPPERS", known)


@pytest.mark.usefixtures("quick")
async def test_what_was_filed_without_an_id_is_its_cards_once_it_can_be_read(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(start) as client:
        with monkeypatch.context() as patch:
            unaware(patch)
            await update(client, "c-1", balance=100, updated_on=at(1))
            await update(client, "c-2", balance=200, updated_on=at(2))
            await update(client, "c-1", wrapper=None, status="ACTIVE", updated_on=at(9))
            await update(client, "c-1", balance=150, updated_on=at(5))
            await update(client, "c-2", balance="two", updated_on=at(6))
            assert (await level(client, CARDS))["quarantined"] == 4
        # Not rebuilt yet: nothing is mixed up, and what comes now is where it belongs.
        await update(client, "c-2", status="ACTIVE", updated_on=at(3))
        await level(client, CARDS)
        assert await history(client, "c-2") == [(6, "applied")]

        found = await promoted(client, CARDS)
        assert (found["folded"], found["quarantined"]) == (5, 1)
        assert found["diff"]["rows"] == {
            "before": 2,
            "after": 2,
            "added": 0,
            "gone": 0,
            "changed": 2,
        }
        assert found["diff"]["sample"][0]["diverged_at"] == 1
        assert found["diff"]["refiled"] == {"before": 0, "after": 4}
        assert await state(client, "c-1") == {
            "stream": "loopz/m-1/gift-card/c-1",
            "position": 4,
            "balance": 150,
            "status": "ACTIVE",
        }
        assert await history(client, "c-1") == [(1, "applied"), (3, "applied"), (4, "late")]
        assert (await state(client, "c-2"))["balance"] == 200
        assert await history(client, "c-2") == [(2, "applied"), (5, "quarantined"), (6, "applied")]
        (item,) = (await client.get(f"{CARDS}/quarantine")).json["items"]
        assert (item["position"], item["stream"]) == (5, "loopz/m-1/gift-card/c-2")
        assert (await client.get("/v1/gift-cards/~none")).status == 404
        assert values(await connection.fetch(REFILED)) == [
            (n, "loopz/m-1/gift-card/~none", f"loopz/m-1/gift-card/{card}")
            for n, card in ((1, "c-1"), (2, "c-2"), (4, "c-1"), (5, "c-2"))
        ]

        # What comes after the promotion is folded live on what was refiled, as a rebuild does.
        await update(client, "c-2", balance=250, updated_on=at(7))
        await update(client, "c-1", balance=1, updated_on=at(4))
        await level(client, CARDS)
        await promoted(client, CARDS)
        assert await differences(connection, "gift_cards", 2, 3) == {}


def reading(wrong: Mapping[str, str]) -> Callable[..., Fact]:
    """Give a decoder that takes some ids for others."""
    decode = loopz.decode

    def decode_wrongly(event: Event, *rules: Any) -> Fact:  # noqa: ANN401 - as they are
        fact = decode(event, *rules)
        return msgspec.structs.replace(fact, id=wrong.get(fact.id, fact.id))

    return decode_wrongly


@pytest.mark.usefixtures("quick")
async def test_what_was_filed_under_another_id_leaves_that_and_takes_its_own_place(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"c-1": "c-2", "c-2": "c-3"}
    id_in = loopz_bodies.id_in
    with monkeypatch.context() as patch:
        patch.setattr(loopz, "decode", reading(wrong))
        patch.setattr(
            "providers.loopz.id_in", lambda *given: wrong.get(str(found := id_in(*given)), found)
        )
        async with running(start) as client:
            for n, balance in enumerate((10, 20, 30), 1):
                await update(client, f"c-{n}", balance=balance, updated_on=at(n))
            await level(client, CARDS)
            assert (await state(client, "c-2"))["balance"] == 10
            assert await history(client, "c-3") == [(2, "applied"), (3, "applied")]
    async with running(start) as client:
        found = await promoted(client, CARDS)
        rows = found["diff"]["rows"]
        assert (rows["added"], rows["gone"], rows["changed"]) == (1, 0, 1)
        for n, balance in enumerate((10, 20, 30), 1):
            assert await state(client, f"c-{n}") == {
                "stream": f"loopz/m-1/gift-card/c-{n}",
                "position": n,
                "balance": balance,
            }
            assert await history(client, f"c-{n}") == [(n, "applied")]
        assert values(
            await connection.fetch("SELECT stream, after FROM balance_changes ORDER BY 1")
        ) == [(f"loopz/m-1/gift-card/c-{n}", 10 * n) for n in (1, 2, 3)]


@pytest.mark.usefixtures("quick")
async def test_what_was_taken_for_another_tenants_is_its_own_tenants(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = {
        "Method": "UpdatePurchaseClosedLoopStatusMongo",
        "BusinessUnitId": 66,
        "TransactionIdentifier": "t-1",
    }
    async with running(start) as client:
        with monkeypatch.context() as patch:
            patch.setattr(fitbank, "_business_unit", lambda _: "1")
            await client.fitbank(payment | {"Status": "Created"})
            await level(client, CASH)
        await client.fitbank(payment | {"Status": "Authorized"})
        await level(client, CASH)
        await promoted(client, CASH)
        found = (await client.get("/v1/transactions")).json["items"]
        assert [(one["stream"], one["merchant_id"], one["phase"]) for one in found] == [
            ("fitbank/66/transaction/t-1", "66", "authorized")
        ]


@pytest.mark.usefixtures("often")
async def test_builder_processes_fold_again_what_others_have_of_a_stream(
    start: StartLoopledger, database: Database, connection: "Connection[Record]"
) -> None:
    misfiled = [
        msgspec.structs.replace(
            new_event("gift-card.updated", {"id": f"c-{n % 20}", "balance": n if n % 7 else "x"}),
            **({"stream": "loopz/m-1/gift-card/~none"} if n % 3 else {}),
        )
        for n in range(100)
    ]
    await append(database, misfiled)
    async with running(start) as client:
        await level(client, CARDS)
        assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 20
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 1, 2) == {}
        assert await connection.fetchval("SELECT count(*) FROM refiled WHERE generation = 2") == 66
        await post(client, f"{CARDS}/discard")
        await until(client, f"{CARDS}/rebuild", lambda one: one.get("status") == 404)
        assert await connection.fetchval("SELECT count(*) FROM refiled WHERE generation = 2") == 0
