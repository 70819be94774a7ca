"""Code that fails for many events: it stops before it fills the quarantine."""

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from providers import loopz
from tests.conftest import StartLoopledger
from tests.support.rebuilding import CARDS, CASH, FEW, broken, level, running, until

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def test_a_fold_that_fails_for_every_event_stops_before_it_fills_the_quarantine(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(start, limits=FEW) as client:
        await client.loopz("gift-card.updated", {"id": "c-0", "balance": 1})
        await level(client, CARDS)
    all_topics = [topic for topic in loopz.TOPICS if topic.startswith("gift-card")]
    monkeypatch.setattr(loopz, "decode", broken(all_topics))
    async with running(start, limits=FEW) as client:
        for n in range(12):
            await client.loopz("gift-card.updated", {"id": f"c-{n}", "balance": n})
            await client.loopz("location.updated", {"id": f"l-{n}"})
        stopped = await until(client, CARDS, lambda p: p["error"] is not None)
        assert "5 in a row" in stopped["error"]
        assert stopped["quarantined"] <= 4
        assert stopped["lag"] > 0
        assert (await client.get("/readyz")).status == 200
        answer = await client.get("/healthz/projections")
        assert (answer.status, list(answer.json["problems"])) == (503, ["gift_cards"])
        assert (await level(client, "/v1/projections/locations"))["folded"] == 12
        assert (await client.get("/v1/gift-cards/c-0")).json["balance"] == 1
        failing, quarantined = await failures(connection)
        assert (len(failing["loopz gift-card.updated"]), quarantined) == (4, 4)
    # It is remembered: the same code gets no further at the next start.
    async with running(start, limits=FEW) as client:
        await until(client, CARDS, lambda p: p["error"] is not None)
        again = await client.loopz("gift-card.updated", {"id": "c-99"})
        await client.get(f"/v1/locations?at_least={again.json['position']}")
        assert await failures(connection) == (failing, quarantined)
    monkeypatch.undo()
    async with running(start, limits=FEW) as client:
        after = await until(client, CARDS, lambda p: p["lag"] == 0 and p["error"] is None)
        assert after["quarantined"] == quarantined
        assert await failures(connection) == ({}, quarantined)
        assert (await client.get("/healthz/projections")).status == 200


async def failures(connection: "Connection[Record]") -> tuple[dict[str, list[str]], int]:
    row = await connection.fetchrow(
        "SELECT failing, quarantined FROM projections WHERE name = 'gift_cards' AND status = 'live'"
    )
    assert row is not None
    return json.loads(row["failing"]), row["quarantined"]


async def test_a_hundred_bad_bodies_of_one_tenant_stop_nobody(start: StartLoopledger) -> None:
    async with running(start) as client:
        await client.fitbank(transaction(66, "good", "20.00"))
        await asyncio.gather(
            *(client.fitbank(transaction(77, f"t-{n % 150}", "20,00")) for n in range(300))
        )
        await client.fitbank(transaction(66, "later", "21.00"))
        after = await level(client, CASH)
        assert (after["error"], after["quarantined"], after["folded"]) == (None, 300, 2)
        assert (await client.get("/healthz/projections")).status == 200


async def test_bad_bodies_of_the_only_tenant_of_a_provider_stop_no_tenant_of_another(
    start: StartLoopledger,
) -> None:
    async with running(start, limits=FEW) as client:
        await client.loopz("transaction.updated", {"id": "t-1", "type": "TOPUP", "amount": 100})
        for n in range(12):
            await client.fitbank(transaction(77, f"t-{n}", "20,00"))
        await client.loopz("transaction.updated", {"id": "t-2", "type": "TOPUP", "amount": 100})
        after = await level(client, CASH)
        assert (after["error"], after["quarantined"], after["folded"]) == (None, 12, 2)


async def test_a_decoder_that_fails_for_every_tenant_stops_though_one_was_excused(
    start: StartLoopledger,
) -> None:
    async with running(start, limits=FEW) as client:
        await client.fitbank(transaction(66, "good", "20.00"))
        for n in range(8):
            await client.fitbank(transaction(77, f"t-{n}", "20,00"))
        await level(client, CASH)
        await client.fitbank(transaction(66, "bad", "20,00"))
        stopped = await until(client, CASH, lambda p: p["error"] is not None)
        assert "5 in a row, each of another thing" in stopped["error"]
        assert "fitbank UpdateDepositClosedLoopStatusMongo" in stopped["error"]


def transaction(unit: int, id_: str, value: str) -> dict[str, object]:
    return {
        "Method": "UpdateDepositClosedLoopStatusMongo",
        "BusinessUnitId": unit,
        "TransactionIdentifier": id_,
        "Status": "Created",
        "TotalValue": value,
    }


@pytest.mark.parametrize("fold_events", [3, 1_000])
async def test_any_number_of_poison_events_among_good_ones_stops_nothing(
    start: StartLoopledger, fold_events: int
) -> None:
    limits = msgspec.structs.replace(FEW, fold_events=fold_events)
    async with running(start, limits=limits) as client:
        for n in range(8):
            for m in range(4):
                await client.loopz("gift-card.updated", {"id": f"c-{m}", "balance": "bad"})
                await client.loopz("location.updated", {"id": "l-1"})
            await client.loopz("gift-card.updated", {"id": "c-1", "balance": n})
        after = await level(client, CARDS)
        assert (after["error"], after["quarantined"], after["folded"]) == (None, 32, 8)
