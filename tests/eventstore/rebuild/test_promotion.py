"""A generation is promoted while others read, send, report, or take over."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventstore.fold import projector
from eventstore.fold.writing import GenerationWriter
from eventstore.rebuild import lifecycle
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


# Whoever waits for a lock on a table or a view, and who is waited for.
WAITING = """
SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


@pytest.mark.usefixtures("quick")
async def test_a_report_that_runs_for_long_holds_up_a_promotion_but_nobody_who_reads(
    start: StartLoopledger, dsn: str, connection: "Connection[Record]"
) -> None:
    watcher = await asyncpg.connect(dsn)
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        async with connection.transaction():
            await connection.fetch("SELECT * FROM gift_cards")
            promoting = asyncio.create_task(client.request("POST", f"{CARDS}/promote"))
            async with asyncio.timeout(10):
                await until(client, f"{CARDS}/rebuild", lambda r: r["waiting"])
                for balance in range(20):
                    assert await watcher.fetch(WAITING) == []
                    assert (await client.get("/v1/gift-cards/c-1")).status == 200
                    sent = await client.loopz(
                        "gift-card.updated", {"id": "c-1", "balance": balance}
                    )
                    at_least = sent.json["position"]
                    answer = await client.get(f"/v1/gift-cards/c-1?at_least={at_least}")
                    assert answer.json["balance"] == balance
            found = (await client.get(f"{CARDS}/rebuild")).json
            assert f"session {connection.get_server_pid()} (" in found["waiting"]
            assert (found["status"], found["wanted"]) == ("ready", "promote")
        shown = await until(client, CARDS, lambda p: p["generation"] == 2)
        await promoting
        assert shown["lag"] == 0
    await watcher.close()


@pytest.mark.usefixtures("quick")
async def test_a_promotion_comes_about_among_readers_that_are_always_there_but_brief(
    start: StartLoopledger, dsn: str
) -> None:
    async with running(start) as client, AsyncExitStack() as stack:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)

        async def keep_reading() -> None:
            reader = await asyncpg.connect(dsn)
            stack.push_async_callback(reader.close)
            while True:
                await reader.fetch("SELECT * FROM gift_cards")

        async with meanwhile(*(keep_reading() for _ in range(4))):
            await asyncio.sleep(0.2)
            await post(client, f"{CARDS}/promote")


@pytest.mark.usefixtures("quick")
async def test_a_report_on_an_old_generation_holds_up_nobody_and_only_puts_off_its_end(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "DROP_SECONDS", 0.1)
    watcher = await asyncpg.connect(dsn)
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        await ready(client, CARDS)
        gone = "SELECT to_regclass('gift_cards_1') IS NULL"
        async with connection.transaction():
            await connection.fetch("SELECT * FROM gift_cards_1")
            await post(client, f"{CARDS}/promote")
            await until(client, CARDS, lambda p: p["generation"] == 3)
            await asyncio.sleep(0.5)
            assert await watcher.fetch("SELECT * FROM gift_cards_1", timeout=1)
            assert not await watcher.fetchval(gone)
        await eventually(lambda: watcher.fetchval(gone))
    await watcher.close()


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
            await connection.execute("GRANT USAGE ON SCHEMA projected TO reader_of_cards")
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
