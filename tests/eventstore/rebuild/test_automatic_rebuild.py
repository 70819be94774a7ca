"""LOOPLEDGER_REBUILD=auto: a stale projection is rebuilt without being asked for."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from eventstore.rebuild.messages import BuildCounts, Job
from eventstore.rebuild.pool import BuildFailedError
from tests.conftest import StartLoopledger
from tests.support.rebuilding import (
    CARDS,
    CASH,
    SWAPPED,
    QuickBuilderPool,
    leftovers,
    level,
    running,
    send_cards,
    send_cash,
    until,
)

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.mark.usefixtures("often")
async def test_with_rebuild_auto_a_stale_projection_is_rebuilt_and_promoted_by_itself(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        await send_cards(client, 2, 1)
        await send_cash(client, 2)
        await level(client, CASH)
    async with running(start, providers=SWAPPED, rebuild="auto") as client:
        after = await until(client, CASH, lambda p: not p["stale"] and p["lag"] == 0)
        assert [one["generation"] for one in after["generations"]] == [1, 2]
        assert (await client.get("/v1/transactions/t-1")).json["kind"] == "deposit"
        assert (await level(client, CARDS))["generation"] == 1
    async with running(start, providers=SWAPPED, rebuild="auto") as client:
        await client.get("/v1/transactions/t-1")
        assert (await client.get(f"{CASH}/rebuild")).status == 404
        assert (await level(client, CASH))["generation"] == 2
    assert await leftovers(connection) == set()


@pytest.mark.usefixtures("quick")
async def test_with_rebuild_auto_a_rebuild_that_fails_is_not_tried_for_ever(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = 0

    async def fail(_: QuickBuilderPool, __: Job, ___: Callable[[int], None]) -> BuildCounts:
        nonlocal builds
        builds += 1
        raise BuildFailedError(problem="by intent")

    async with running(start) as client:
        await send_cash(client, 2)
        await level(client, CASH)
    monkeypatch.setattr(QuickBuilderPool, "build_ranges", fail)
    async with running(start, providers=SWAPPED, rebuild="auto") as client:
        await until(client, f"{CASH}/rebuild", lambda r: r["status"] == "failed")
        await asyncio.sleep(0.5)
        assert builds == 1
        assert (await client.get("/v1/transactions/t-1")).json["kind"] == "withdrawal"
