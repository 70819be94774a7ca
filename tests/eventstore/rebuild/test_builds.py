"""Builds in bounded memory, two at once, and discarded on the way."""

import asyncio
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from tests.conftest import StartLoopledger
from tests.support.rebuilding import (
    CARDS,
    CASH,
    LIMITS,
    differences,
    fill,
    leftovers,
    level,
    post,
    ready,
    running,
    send_cards,
    send_cash,
    until,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("counted", [True, False], ids=["foreseen", "not foreseen"])
@pytest.mark.parametrize("processes", [1, 2])
async def test_builders_that_may_hold_few_streams_make_several_passes_and_nothing_twice(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    processes: int,
    *,
    counted: bool,
) -> None:
    await fill(dsn, 800)
    limits = msgspec.structs.replace(
        LIMITS, rebuild_streams=10, rebuild_events=400, rebuild_processes=processes
    )
    async with running(start, limits=limits) as client:
        await level(client, CARDS)
        if counted:
            await connection.execute("ANALYZE gift_cards_1")
        found = await ready(client, CARDS)
        assert (found["folded"], found["ignored"]) == (640, 160)
        assert await differences(connection, "gift_cards", 1, 2) == {}


@pytest.mark.usefixtures("often")
async def test_two_projections_are_rebuilt_at_once(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 2)
        await send_cash(client, 3)
        await asyncio.gather(ready(client, CARDS), ready(client, CASH))
        await asyncio.gather(post(client, f"{CARDS}/promote"), post(client, f"{CASH}/promote"))
        for name in ("gift_cards", "transactions"):
            assert await differences(connection, name, 1, 2) == {}


@pytest.mark.usefixtures("often")
async def test_a_rebuild_that_is_discarded_while_it_is_built_ends_at_once_and_leaves_nothing(
    start: StartLoopledger, dsn: str, connection: "Connection[Record]"
) -> None:
    await fill(dsn, 2_000)
    limits = msgspec.structs.replace(LIMITS, rebuild_events=5)
    async with running(start, limits=limits) as client:
        await level(client, CARDS)
        await client.request("POST", f"{CARDS}/rebuild")
        await until(client, f"{CARDS}/rebuild", lambda r: 0 < r["percent"] < 100)
        children = psutil.Process().children()
        builders = [one for one in children if "runtime.builder_process" in " ".join(one.cmdline())]
        assert builders
        async with asyncio.timeout(2):
            await post(client, f"{CARDS}/discard")
        assert not any(one.is_running() for one in builders)
        assert await leftovers(connection) == set()
        assert await connection.fetchval("SELECT count(*) FROM projections") == 3
        assert (await client.get("/v1/gift-cards/c-1")).status == 200


@pytest.mark.usefixtures("quick")
async def test_a_generation_that_somebody_looks_at_through_a_view_holds_up_no_other_projection(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 2, 1)
        await send_cash(client, 1)
        await ready(client, CARDS)
        await connection.execute("CREATE VIEW preview AS SELECT count(*) FROM gift_cards_2")
        discarding = asyncio.create_task(client.request("POST", f"{CARDS}/discard"))
        # It would never be, while the view is there.
        async with asyncio.timeout(30):
            await ready(client, CASH)
        assert not discarding.done()
        await connection.execute("DROP VIEW preview")
        assert (await discarding).status == 200
        assert await leftovers(connection) == set()
