"""Two processes that both take themselves for the leader, or one that dies again and again, while a rebuild is on."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from eventstore.postgres import leader
from eventstore.rebuild import build
from eventstore.rebuild.messages import BuildCounts, Job
from runtime import wiring
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.rebuilding import (
    CARDS,
    QuickBuilderPool,
    differences,
    eventually,
    leftovers,
    level,
    post,
    running,
    send_cards,
    until,
)
from tests.support.silent_proxy import SilentProxy

if TYPE_CHECKING:
    from asyncpg import Connection, Record


class SlowBuilderPool(QuickBuilderPool):
    """Builders of which the first of all waits until it is told to go on, and none is quick."""

    begun: asyncio.Event
    go_on: asyncio.Event

    async def build_ranges(self, job: Job, on_progress: Callable[[int], None]) -> BuildCounts:
        """Build, after a while."""
        if not self.begun.is_set():
            self.begun.set()
            await self.go_on.wait()
        else:
            await asyncio.sleep(0.7)
        return await super().build_ranges(job, on_progress)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[SlowBuilderPool]:
    """Builders in this process, of which the first waits; and leaders that look often."""
    monkeypatch.setattr(wiring, "BuilderPool", SlowBuilderPool)
    monkeypatch.setattr(SlowBuilderPool, "begun", asyncio.Event(), raising=False)
    monkeypatch.setattr(SlowBuilderPool, "go_on", asyncio.Event(), raising=False)
    monkeypatch.setattr(leader, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(leader, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(leader, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(leader, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(build, "PAUSE_SECONDS", 0.05)
    return SlowBuilderPool


async def _is_right(client: Client, connection: "Connection[Record]", generation: int) -> None:
    """See that what is ready is of this number, equals the live one, and is all that there is."""
    found = await until(client, f"{CARDS}/rebuild", lambda r: r["status"] in {"ready", "failed"})
    assert (found["status"], found["generation"]) == ("ready", generation), found
    await level(client, CARDS)
    await until(client, f"{CARDS}/rebuild", lambda r: r["lag"] == 0)
    assert await differences(connection, "gift_cards", 1, generation) == {}
    assert await leftovers(connection) == set()


@pytest.mark.usefixtures("often")
async def test_a_leader_that_is_not_told_of_its_end_cannot_disturb_the_rebuild_of_the_next(
    start: StartLoopledger,
    connection: "Connection[Record]",
    slow: type[SlowBuilderPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(leader, "_end_of_lead", never)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(start))
        second = await stack.enter_async_context(running(start))
        await send_cards(second, 10, 3)
        await second.request("POST", f"{CARDS}/rebuild")
        await slow.begun.wait()
        await connection.execute("SELECT pg_terminate_backend(pid) FROM leadership")
        await until(second, f"{CARDS}/rebuild", lambda r: r["generation"] == 3 and r["target"])
        # The first goes on with what it takes for its own, while the second builds.
        slow.go_on.set()
        await _is_right(second, connection, 3)
        await asyncio.sleep(1)
        await _is_right(second, connection, 3)
        await post(second, f"{CARDS}/promote")
        assert (await level(second, CARDS))["generation"] == 3
        assert await leftovers(connection) == set()


@pytest.mark.usefixtures("often")
async def test_a_leader_that_is_cut_off_in_a_rebuild_passes_it_on_once(
    start: StartLoopledger,
    dsn: str,
    connection: "Connection[Record]",
    slow: type[SlowBuilderPool],
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(SilentProxy(dsn).run())
        first = await stack.enter_async_context(running(start, database_url=proxy.dsn))
        await send_cards(first, 10, 3)
        second = await stack.enter_async_context(running(start))
        await second.request("POST", f"{CARDS}/rebuild")
        await slow.begun.wait()
        proxy.silent.set()
        await until(second, f"{CARDS}/rebuild", lambda r: r["generation"] == 3 and r["target"])
        slow.go_on.set()
        await _is_right(second, connection, 3)
        await asyncio.sleep(1)
        await _is_right(second, connection, 3)


@pytest.mark.usefixtures("often")
async def test_attempts_at_a_build_are_counted_whoever_conducts_them(
    start: StartLoopledger, connection: "Connection[Record]", slow: type[SlowBuilderPool]
) -> None:
    generations = []
    for attempt in range(1, build.ATTEMPTS + 1):
        slow.begun.clear()
        async with running(start) as client:
            if attempt == 1:
                await send_cards(client, 5, 1)
                await client.request("POST", f"{CARDS}/rebuild")
            await slow.begun.wait()
            row = await connection.fetchrow(
                "SELECT generation, attempts FROM projections WHERE status = 'building'"
            )
            assert row is not None
            assert row["attempts"] == attempt
            generations.append(row["generation"])
    slow.go_on.set()
    async with running(start) as client:
        found = await until(client, f"{CARDS}/rebuild", lambda r: r["status"] == "failed")
        assert f"{build.ATTEMPTS} attempts were interrupted" in found["error"]
        assert generations == [2, 3, 4]
        assert await leftovers(connection) == set()
        await client.request("POST", f"{CARDS}/rebuild")
        await until(client, f"{CARDS}/rebuild", lambda r: r["status"] == "ready")


@pytest.mark.usefixtures("often")
async def test_an_attempt_that_an_outage_interrupted_is_not_counted(
    start: StartLoopledger, connection: "Connection[Record]", slow: type[SlowBuilderPool]
) -> None:
    async with running(start) as client:
        await send_cards(client, 5, 1)
        await client.request("POST", f"{CARDS}/rebuild")
        for generation in range(2, 2 + build.ATTEMPTS + 2):
            await slow.begun.wait()
            attempts = "SELECT attempts FROM projections WHERE generation = $1 AND target > 0"
            await eventually(lambda: connection.fetchval(attempts, generation))  # noqa: B023
            assert await connection.fetchval(attempts, generation) == 1
            slow.begun.clear()
            await connection.execute("SELECT pg_terminate_backend(pid) FROM leadership")
        slow.go_on.set()
        await until(client, f"{CARDS}/rebuild", lambda r: r["status"] == "ready")
