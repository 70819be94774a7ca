"""The requests of the API take turns, and deliveries come first."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from web.errors import TooManyReadsError
from web.reads import BURST_SECONDS, ReadTurns

# Longer than requests may run before they wait.
LONG_SECONDS = 5 * BURST_SECONDS


def compute(seconds: float) -> None:
    """Hold the loop."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def turns(*, delivering: bool = True, waiting: int = 1_000) -> ReadTurns:
    newest = time.perf_counter if delivering else lambda: -math.inf
    return ReadTurns(Limits(reads_waiting=waiting), newest, exempt=["/readyz"])


class Work:
    """Some steps that take long, told to `done` as they are taken."""

    def __init__(self, name: str, done: list[str], steps: int = 1) -> None:
        self._name = name
        self._done = done
        self._steps = steps

    async def run(self) -> str:
        """Take them; gives back the name."""
        for step in range(self._steps):
            if step:
                await asyncio.sleep(0)
            compute(LONG_SECONDS)
            self._done.append(self._name)
        return self._name


@asynccontextmanager
async def spent(one: ReadTurns) -> AsyncIterator[None]:
    """Have somebody else use up all that is there now."""
    await one.run("other", Work("other", []).run())
    yield


@pytest.mark.parametrize("delivering", [True, False])
async def test_every_address_gets_its_turn_however_many_requests_another_has(
    *, delivering: bool
) -> None:
    one, done = turns(delivering=delivering), list[str]()
    async with spent(one), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(one.run("flood", Work("flood", done).run()))
        await asyncio.sleep(0)
        group.create_task(one.run("operator", Work("operator", done).run()))
    assert len(done) == 21
    assert "operator" in done[:3]


async def test_the_loop_has_other_work_done_between_two_turns() -> None:
    one, done = turns(), list[str]()

    async def other_work() -> None:
        while True:
            if done[-1:] != ["other work"]:
                done.append("other work")
            await asyncio.sleep(0)

    other = asyncio.create_task(other_work())
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(one.run("a", Work("read", done, steps=4).run()))
    other.cancel()
    reads = [at for at, each in enumerate(done) if each == "read"]
    assert all(b - a > 1 for a, b in pairwise(reads))


async def test_short_requests_do_not_wait_while_there_is_time() -> None:
    one = turns()

    async def short() -> int:
        await asyncio.sleep(0)
        return 1

    assert [await one.run("a", short()) for _ in range(3)] == [1, 1, 1]


async def test_what_a_request_raises_or_is_told_passes_through() -> None:
    one = turns()

    async def fail() -> None:
        await asyncio.sleep(0)
        message = "as it is"
        raise ValueError(message)

    async def give_up() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        except TimeoutError:
            return "late"
        return "never"

    with pytest.raises(ValueError, match="as it is"):
        await one.run("a", fail())
    assert await one.run("a", give_up()) == "late"


async def test_who_goes_while_it_waits_holds_up_nobody() -> None:
    one, done = turns(), list[str]()
    async with spent(one):
        gone = [asyncio.create_task(one.run("gone", Work("gone", done).run())) for _ in range(10)]
        stays = asyncio.create_task(one.run("stays", Work("stays", done).run()))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        assert await stays == "stays"
        assert await asyncio.gather(*gone, return_exceptions=True)
    assert all(task.cancelled() for task in gone)
    assert done == ["stays"]


async def test_no_more_wait_than_the_limit_allows_and_health_never_does() -> None:
    one, done = turns(waiting=2), list[str]()

    async def answer(_: web.Request) -> web.Response:
        compute(LONG_SECONDS)
        done.append("answered")
        return web.Response()

    async def ask(path: str) -> web.StreamResponse:
        return await one.middleware(make_mocked_request("GET", path), answer)

    async with spent(one):
        waiting = [asyncio.create_task(ask("/v1/events")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyReadsError):
            await ask("/v1/events")
        assert done == []
        assert (await ask("/readyz")).status == 200
        await asyncio.gather(*waiting)
    assert len(done) == 3


async def test_deliveries_and_reads_go_on_side_by_side(start: StartLoopledger) -> None:

    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        client = Client(session)

        async def deliver(number: int) -> int:
            body = {"id": "l-1", "name": str(number)}
            return (await client.loopz("location.updated", body)).status

        async def read(path: str) -> int:
            return (await client.get(path)).status

        assert await deliver(0) == 200
        await client.get("/v1/locations/l-1?merchant_id=m-1&at_least=1")
        paths = ["/v1/events", "/v1/locations/l-1/history", "/metrics", "/v1/nothing"]
        found = await asyncio.gather(
            *(deliver(n) for n in range(1, 60)), *(read(p) for p in paths for _ in range(30))
        )
    assert found[:59] == [200] * 59
    assert found[59:] == [200] * 90 + [404] * 30
