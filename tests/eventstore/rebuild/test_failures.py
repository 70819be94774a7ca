"""Rebuilds that fail: they say why, leave nothing behind, and what is live stays."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventstore.rebuild.build import Build
from eventstore.rebuild.pool import BuilderPool
from providers import loopz
from tests.conftest import StartLoopledger
from tests.support.rebuilding import (
    CARDS,
    FEW,
    broken,
    differences,
    leftovers,
    level,
    post,
    ready,
    running,
    send_cards,
    send_cash,
    settled,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.mark.usefixtures("often")
async def test_what_a_fault_of_the_code_put_in_quarantine_is_folded_by_a_rebuild(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = loopz.decode
    monkeypatch.setattr(loopz, "decode", broken(["gift-card.deleted"]))
    async with running(start) as client:
        for n in range(6):
            await client.loopz("gift-card.updated", {"id": f"c-{n}", "balance": n})
            await client.loopz("gift-card.deleted", {"id": f"c-{n}"})
        await client.loopz("gift-card.updated", {"id": "c-1", "balance": "never right"})
        assert (await level(client, CARDS))["quarantined"] == 7
    monkeypatch.setattr(loopz, "decode", decode)
    async with running(start) as client:
        assert (await level(client, CARDS))["stale"]
        found = await ready(client, CARDS)
        assert (found["folded"], found["quarantined"]) == (12, 1)
        assert found["diff"]["rows"]["changed"] == 6
        assert found["diff"]["columns"] == {"position": 6, "deleted_at": 6}
        promoted = await post(client, f"{CARDS}/promote")
        assert (promoted["stale"], promoted["quarantined"]) == (False, 1)
        items = (await client.get(f"{CARDS}/quarantine")).json["items"]
        assert [item["position"] for item in items] == [13]
        assert len((await client.get("/v1/gift-cards?deleted=true")).json["items"]) == 6
    assert await leftovers(connection) == set()


# Whoever makes a table for the states of cards gets one that refuses its rows.
TROUBLE = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION HOW; END $$;
CREATE FUNCTION make_trouble() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
        IF made.object_identity LIKE '%.gift\\_cards\\_%' THEN
            EXECUTE 'CREATE TRIGGER trouble BEFORE INSERT ON ' || made.object_identity
                || ' FOR EACH ROW EXECUTE FUNCTION trouble()';
        END IF;
    END LOOP;
END $$;
CREATE EVENT TRIGGER make_trouble ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
EXECUTE FUNCTION make_trouble();
"""


@pytest.mark.usefixtures("quick")
async def test_a_build_that_fails_says_why_leaves_nothing_and_can_be_replaced(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 2)
        await connection.execute(TROUBLE.replace("HOW", "'no more cards'"))
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "no more cards" in found["error"]
        assert await leftovers(connection) == set()
        assert (await client.request("POST", f"{CARDS}/promote")).status == 409
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 77})
        answer = await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert answer.json["balance"] == 77
        await connection.execute("DROP EVENT TRIGGER make_trouble")
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 1, 2) == {}


@pytest.mark.usefixtures("often")
async def test_a_build_that_fills_the_disk_fails_instead_of_filling_it_again_and_again(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 2)
        await connection.execute(TROUBLE.replace("HOW", "USING ERRCODE = 'disk_full'"))
        async with asyncio.timeout(15):
            found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert await leftovers(connection) == set()


@pytest.mark.usefixtures("often")
async def test_a_builder_that_cannot_read_its_settings_says_so(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"fitbank": {"business_units": {"66": {"time_zone": "Nowhere/Land"}}}}
    init = BuilderPool.__init__

    def with_bad_settings(self: BuilderPool, command: Any, greeting: bytes, **others: int) -> None:  # noqa: ANN401
        told = msgspec.json.decode(greeting) | {"providers": bad}
        init(self, command, msgspec.json.encode(told), **others)

    monkeypatch.setattr(BuilderPool, "__init__", with_bad_settings)
    async with running(start) as client:
        await send_cards(client, 1, 1)
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "Nowhere/Land" in found["error"]


@pytest.mark.usefixtures("quick")
async def test_a_rebuild_by_code_that_folds_nothing_fails_and_what_is_live_stays(
    start: StartLoopledger, connection: "Connection[Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(start, limits=FEW) as client:
        await send_cards(client, 10, 2)
        await level(client, CARDS)
    monkeypatch.setattr(loopz, "decode", broken(list(loopz.TOPICS)))
    async with running(start, limits=FEW) as client:
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "in a row" in found["error"]
        assert await leftovers(connection) == set()
        assert len((await client.get("/v1/gift-cards")).json["items"]) == 10


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("off", [-1, 1])
async def test_a_build_whose_counts_do_not_make_up_the_whole_fails_and_what_is_live_stays(
    start: StartLoopledger,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
    off: int,
) -> None:
    count = Build._count_ignored

    async def count_wrongly(self: Build, target: int) -> int:
        return await count(self, target) + off

    monkeypatch.setattr(Build, "_count_ignored", count_wrongly)
    async with running(start) as client:
        await send_cards(client, 5, 1)
        await send_cash(client, 2)
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "incomplete" in found["error"]
        assert await leftovers(connection) == set()
        assert len((await client.get("/v1/gift-cards")).json["items"]) == 5


@pytest.mark.usefixtures("quick")
async def test_a_registry_that_does_not_add_up_fails_the_rebuild(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 1)
        await level(client, CARDS)
        await connection.execute(
            "ALTER TABLE projections DROP CONSTRAINT complete, ADD CONSTRAINT complete CHECK"
            " (folded + ignored + quarantined = CASE WHEN generation = 1 THEN checkpoint ELSE 0 END)"
        )
        found = await settled(client, CARDS)
        assert found["status"] == "failed"
        assert "incomplete" in found["error"]
        sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": 3})
        await client.get(f"/v1/gift-cards/c-1?at_least={sent.json['position']}")
        assert (await level(client, CARDS))["error"] is None
