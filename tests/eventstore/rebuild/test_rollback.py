"""Back to the generation that was live before, and what is kept for it."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.rebuild.lifecycle import Lifecycle
from eventstore.rebuild.promotion import Promotion
from tests.conftest import StartLoopledger
from tests.support import values
from tests.support.rebuilding import (
    CARDS,
    differences,
    eventually,
    leftovers,
    level,
    post,
    ready,
    running,
    send_cards,
    settled,
    until,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.mark.usefixtures("quick")
async def test_rollbacks_go_back_and_forth_and_what_comes_after_is_folded(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await settled(client, CARDS)
        await post(client, f"{CARDS}/promote")
        for n, generation in enumerate([1, 2, 1, 2]):
            rolled = await post(client, f"{CARDS}/rollback")
            assert rolled["generation"] == generation
            sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 100 + n})
            answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
            assert answer.json["balance"] == 100 + n
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 2, 3) == {}


@pytest.mark.usefixtures("quick")
async def test_only_the_generation_that_was_live_last_is_kept(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        for generation in (2, 3, 4):
            await ready(client, CARDS)
            assert (await post(client, f"{CARDS}/promote"))["generation"] == generation
        await until(client, CARDS, lambda p: len(p["generations"]) == 2)
        assert await leftovers(connection) == set()
        assert (await post(client, f"{CARDS}/rollback"))["generation"] == 3


@pytest.mark.usefixtures("quick")
async def test_a_retired_generation_with_fewer_columns_is_adapted_before_it_is_live_again(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        await connection.execute("ALTER TABLE gift_cards_1 DROP COLUMN gan, DROP COLUMN status")
        await connection.execute("ALTER TABLE gift_cards_timeline_1 DROP COLUMN absent CASCADE")
        rolled = await post(client, f"{CARDS}/rollback")
        assert rolled["generation"] == 1
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "status": "NEW"})
        await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        found = (await client.get("/v1/gift-cards?status=NEW")).json["items"]
        assert [item["id"] for item in found] == ["c-1"]


@pytest.mark.usefixtures("quick")
async def test_after_a_rollback_one_generation_is_live_even_if_an_older_one_cannot_be_dropped(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await connection.execute("CREATE VIEW report AS SELECT count(*) FROM gift_cards_1")
        for _ in range(2):
            await ready(client, CARDS)
            await post(client, f"{CARDS}/promote")
        assert (await level(client, CARDS))["generation"] == 3
        await client.request("POST", f"{CARDS}/rollback")
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 9})
        live = "SELECT generation FROM projections WHERE name = 'gift_cards' AND status = 'live'"
        assert values(await connection.fetch(live)) == [(2,)]
        answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert answer.json["balance"] == 9


@pytest.mark.usefixtures("quick")
async def test_a_rollback_that_fails_is_not_answered_as_done(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        await connection.execute("DROP TABLE gift_cards_1")
        answer = await client.request("POST", f"{CARDS}/rollback")
        assert answer.status not in {200, 202}
        assert (await level(client, CARDS))["generation"] == 2


@pytest.mark.usefixtures("quick")
async def test_a_discard_that_comes_while_a_rollback_is_made_leaves_one_generation_live(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    promote, update = Promotion.run, Lifecycle.update
    begun, read = asyncio.Event(), asyncio.Event()

    async def promote_late(self: Promotion) -> None:
        begun.set()
        await read.wait()
        await promote(self)

    async def update_late(self: Lifecycle, generations: Any) -> None:  # noqa: ANN401
        rebuild = generations.rebuild
        if rebuild is not None and rebuild.wanted == "discard":
            # It has been read that it is to be discarded; meanwhile it is made live.
            read.set()
            await eventually(lambda: self._live.tables.generation == 1)
        await update(self, generations)

    async with running(start) as client:
        await send_cards(client, 3, 1)
        await ready(client, CARDS)
        await post(client, f"{CARDS}/promote")
        monkeypatch.setattr(Promotion, "run", promote_late)
        monkeypatch.setattr(Lifecycle, "update", update_late)
        rolling = asyncio.create_task(client.request("POST", f"{CARDS}/rollback"))
        await asyncio.wait_for(begun.wait(), 5)
        await asyncio.gather(client.request("POST", f"{CARDS}/discard"), rolling)
        live = "SELECT count(*) FROM projections WHERE name = 'gift_cards' AND status = 'live'"
        assert await connection.fetchval(live) == 1
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 4})
        answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert (answer.status, answer.json["balance"]) == (200, 4)
