"""A generation is promoted while others read, send, report, or take over."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.fold import projector
from eventstore.fold.writing import GenerationWriter
from tests.conftest import StartLoopledger
from tests.support import values
from tests.support.rebuilding import (
    CARDS,
    differences,
    eventually,
    level,
    meanwhile,
    post,
    ready,
    running,
    send_cards,
    until,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.mark.usefixtures("often")
async def test_who_reads_and_sends_while_a_generation_is_promoted_notices_nothing(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 20, 3)
        balance, ends = 0, False

        async def use() -> None:
            nonlocal balance
            while not ends:
                balance += 1
                sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": balance})
                assert sent.status == 200, sent.json
                at_least = sent.json["position"]
                answer = await client.get(f"/v1/gift-cards/c-1?at_least={at_least}")
                assert answer.status == 200, answer.json
                assert (answer.json["position"], answer.json["balance"]) == (at_least, balance)

        using = asyncio.create_task(use())
        await ready(client, CARDS)
        before = balance
        follows = await until(client, f"{CARDS}/rebuild", lambda r: r["checkpoint"] > r["target"])
        assert (
            follows["folded"] + follows["ignored"] + follows["quarantined"] == follows["checkpoint"]
        )
        for what in ("promote", "rollback", "rollback"):
            await post(client, f"{CARDS}/{what}")
        ends = True
        await using
        assert balance > before
        assert (await level(client, CARDS))["generation"] == 2
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 2, 3) == {}


@pytest.mark.usefixtures("quick")
async def test_a_report_that_runs_for_long_holds_up_a_promotion_but_nobody_who_reads(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        async with connection.transaction():
            await connection.fetch("SELECT * FROM gift_cards")
            async with meanwhile(client.request("POST", f"{CARDS}/promote")):
                waiting = (
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                async with asyncio.timeout(5):
                    await eventually(lambda: connection.fetchval(waiting))
                    assert (await client.get("/v1/gift-cards/c-1")).status == 200
                    sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 8})
                    at_least = sent.json["position"]
                    answer = await client.get(f"/v1/gift-cards/c-1?at_least={at_least}")
                    assert answer.json["balance"] == 8
        await until(client, CARDS, lambda p: p["generation"] == 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("generation", [1, 2])
async def test_a_connection_that_is_lost_while_it_folds_does_not_cost_a_generation_that_is_ready(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    write_batch, lost = GenerationWriter.write_batch, asyncio.Event()

    async def lose(self: GenerationWriter[Any], *arguments: Any) -> bool:  # noqa: ANN401
        written = await write_batch(self, *arguments)
        if self._tables.generation == generation and not lost.is_set():
            lost.set()
            message = "after the commit, before its answer"
            raise ConnectionResetError(message)
        return written

    monkeypatch.setattr(projector, "FIRST_PAUSE", 0.5)
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        monkeypatch.setattr(GenerationWriter, "write_batch", lose)
        await client.loopz("gift-card.updated", {"id": "c-1", "balance": 8})
        await asyncio.wait_for(lost.wait(), 5)
        await client.request("POST", f"{CARDS}/promote")
        shown = await until(
            client,
            CARDS,
            lambda p: p["generations"][-1]["status"] in {"live", "failed"},
        )
        assert (shown["generation"], shown["lag"]) == (2, 0), shown


@pytest.mark.usefixtures("quick")
async def test_a_view_that_somebody_built_on_a_projection_shows_what_is_live(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 2)
        await connection.execute("CREATE ROLE reader_of_cards")
        try:
            await connection.execute("GRANT SELECT ON gift_cards TO reader_of_cards")
            await connection.execute("CREATE VIEW report AS SELECT sum(balance) FROM gift_cards")
            await ready(client, CARDS)
            for what, cards in {"promote": "gift_cards_2", "rollback": "gift_cards_1"}.items():
                await post(client, f"{CARDS}/{what}")
                sent = await client.loopz("gift-card.updated", {"id": "c-0", "balance": 50})
                await client.get(f"/v1/gift-cards?at_least={sent.json['position']}")
                balances = values(await connection.fetch(f"SELECT balance FROM {cards}"))  # noqa: S608
                assert (50,) in balances
                total = await connection.fetchval("SELECT * FROM report")
                assert total == sum(balance for (balance,) in balances)
                await connection.execute("SET ROLE reader_of_cards")
                assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 3
                await connection.execute("RESET ROLE")
        finally:
            await connection.execute("DROP OWNED BY reader_of_cards; DROP ROLE reader_of_cards")


@pytest.mark.usefixtures("quick")
async def test_a_server_that_takes_over_follows_the_generation_that_another_promoted(
    start: StartLoopledger,
) -> None:
    async with AsyncExitStack() as stack:
        leading = AsyncExitStack()
        # The first to come leads; the second stands by, and knows of generation 1 alone.
        first = await leading.enter_async_context(running(start))
        stack.push_async_callback(leading.aclose)
        second = await stack.enter_async_context(running(start))
        await send_cards(first, 3, 1)
        await ready(first, CARDS)
        await post(first, f"{CARDS}/promote")
        await ready(first, CARDS)
        await leading.aclose()
        sent = await second.loopz("gift-card.updated", {"id": "c-1", "balance": 7})
        answer = await second.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert answer.status == 200, answer.json
        assert answer.json["balance"] == 7
        assert (await post(second, f"{CARDS}/promote"))["generation"] == 3
