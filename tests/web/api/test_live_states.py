"""Live streams of states: the newest state of what has changed, in the generation that is live."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.live import LiveReader, reading

STREAM = "/v1/gift-cards/stream"


async def deliver(
    client: Client,
    id_: str,
    amount: int | None = None,
    *,
    topic: str = "updated",
    merchant: str = "m-1",
) -> int:
    """Deliver a card; gives back the position."""
    body: dict[str, object] = {"id": id_, "code": "ABCD-EFGH-1234"}
    if amount is not None:
        body["balance"] = {"amount": amount, "currencyCode": "EUR"}
    answer = await client.loopz(f"gift-card.{topic}", body, merchant=merchant)
    position: int = answer.json["position"]
    return position


async def test_a_state_is_told_as_it_is_answered(client: Client) -> None:
    async with reading(client, STREAM) as stream:
        assert await stream.until_id() == "1-0"
        position = await deliver(client, "a", 5)
        message = await stream.next()
    answer = await client.get(f"/v1/gift-cards/a?at_least={position}")
    assert (message.id, message.event) == (f"1-{position}", "state")
    assert message.data.encode() == answer.body.rstrip()


async def test_of_each_thing_only_the_newest_state_is_told(client: Client) -> None:
    for id_, amount in (("a", 1), ("b", 2), ("a", 3)):
        await deliver(client, id_, amount)
    await client.get("/v1/gift-cards?at_least=3")
    async with reading(client, f"{STREAM}?after=0") as stream:
        assert await stream.positions(2) == [2, 3]
        assert await deliver(client, "b", 4) == await stream.position()
    async with reading(client, STREAM, headers={"Last-Event-ID": "1-2"}) as stream:
        assert await stream.positions(2) == [3, 4]


async def test_a_deletion_is_told(client: Client) -> None:
    await deliver(client, "a", 1)
    async with reading(client, f"{STREAM}?after=0") as stream:
        assert json.loads((await stream.next()).data)["deleted_at"] is None
        await deliver(client, "a", topic="deleted")
        assert json.loads((await stream.next()).data)["deleted_at"] is not None


# Questions about the cards below, and the positions of the states that answer them.
TOLD = {
    "": [1, 2, 3, 4],
    "merchant_id=m-2": [2],
    "min_balance=20": [2, 3],
    "min_balance=20&max_balance=20&merchant_id=m-2": [2],
    "deleted=true": [4],
    "deleted=false": [1, 2, 3],
    "id=c": [3],
}


async def test_only_the_states_of_the_filters_are_told(client: Client) -> None:
    async with AsyncExitStack() as stack:

        async def start(path: str) -> LiveReader:
            stream = await stack.enter_async_context(reading(client, path))
            await stream.until_id()
            return stream

        live = [await start(f"{STREAM}?{question}") for question in TOLD]
        await deliver(client, "a", 10)
        await deliver(client, "b", 20, merchant="m-2")
        await deliver(client, "c", 30)
        last = await deliver(client, "d", topic="deleted")
        await client.get(f"/v1/gift-cards?at_least={last}")
        past = [await start(f"{STREAM}?after=0&{question}") for question in TOLD]
        for streams in (live, past):
            for stream, told in zip(streams, TOLD.values(), strict=True):
                assert await stream.positions(len(told)) == told


@asynccontextmanager
async def quick(start: StartLoopledger) -> AsyncIterator[Client]:
    limits = Limits(poll_seconds=0.05, pool_connections=5, heartbeat_seconds=0.1)
    async with start(limits=limits) as server, aiohttp.ClientSession(server.url) as session:
        yield Client(session)


async def test_a_promotion_has_everybody_begin_again(start: StartLoopledger) -> None:
    async with quick(start) as client:
        position = await deliver(client, "a", 1)
        await client.get(f"/v1/gift-cards?at_least={position}")
        async with reading(client, f"{STREAM}?after=0") as stream:
            assert (await stream.next()).id == "1-1"
            await client.request("POST", "/v1/projections/gift_cards/rebuild?promote=true")
            message = await stream.next(60)
            assert (message.id, message.event) == ("2-1", "reset")
            assert json.loads(message.data) == {"generation": 2, "position": 1}
            await deliver(client, "a", 2)
            assert (await stream.next()).id == "2-2"
        async with reading(client, STREAM, headers={"Last-Event-ID": "1-1"}) as stream:
            message = await stream.next()
            assert (message.id, message.event) == ("2-2", "reset")
            await deliver(client, "a", 3)
            assert (await stream.next()).id == "2-3"
        async with reading(client, STREAM, headers={"Last-Event-ID": "2-2"}) as stream:
            assert (await stream.next()).id == "2-3"


async def test_an_idle_stream_says_how_far_its_projection_is(start: StartLoopledger) -> None:
    async with quick(start) as client, reading(client, f"{STREAM}?id=nobody") as stream:
        await deliver(client, "a", 1)
        async with asyncio.timeout(10):
            while await stream.until_id() != "1-1":
                pass


@pytest.mark.parametrize("after", ["x", "1-", "-1", "1-2-3", "1" * 30])
async def test_what_is_no_id_of_a_state_is_refused(client: Client, after: str) -> None:
    answer = await client.get(f"{STREAM}?after={after}")
    assert (answer.status, answer.json["parameter"]) == (400, "after")
