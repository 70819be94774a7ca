"""A rebuild where the log is distributed, against the stand-in for Citus."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.distribution.distributing import distribute
from eventstore.rebuild.diff import Comparison
from projections import load_projections
from tests.conftest import StartLoopledger
from tests.support.citus import calls, make_citus
from tests.support.rebuilding import CARDS, level, post, ready, running, send_cards, until

if TYPE_CHECKING:
    from asyncpg import Connection, Record

CHECKPOINTS = "SELECT generation, checkpoint FROM projections WHERE name = 'gift_cards'"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("distributed", [True, False], ids=["citus", "postgres"])
async def test_generations_are_compared_while_neither_folds_where_snapshots_differ(
    start: StartLoopledger,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
    distributed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    if distributed:
        await make_citus(connection)
        await distribute(connection, load_projections())
    diff = Comparison.diff
    moved: list[bool] = []

    async with running(start) as client:
        await send_cards(client, 3, 1)

        async def diff_while_others_send(self: Any, *given: Any) -> Any:  # noqa: ANN401 - as it is
            before = await connection.fetch(CHECKPOINTS)
            await send_cards(client, 3, 2)
            await asyncio.sleep(0.5)
            moved.append(await connection.fetch(CHECKPOINTS) != before)
            return await diff(self, *given)

        monkeypatch.setattr(Comparison, "diff", diff_while_others_send)
        found = await ready(client, CARDS)
        assert moved == [not distributed]
        assert found["diff"]["rows"]["changed"] == 0
        await post(client, f"{CARDS}/promote")
        await until(client, CARDS, lambda one: one["generation"] == 2)
        assert (await level(client, CARDS))["generation"] == 2
    if distributed:
        names = {table for table, _, _ in await calls(connection)}
        assert names >= {"events", "gift_cards_1", "gift_cards_2", "gift_cards_timeline_2"}
