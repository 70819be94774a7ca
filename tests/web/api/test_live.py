"""Live streams of events: whoever subscribes is told everything once, in order, from wherever they begin."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import quote

import aiohttp
import pytest

from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.postgres.database import Database
from tests.conftest import StartLoopledger
from tests.support import Client, new_event
from tests.support.live import LiveReader, reading
from tests.support.log import Log

QUICK = Limits(poll_seconds=0.05, pool_connections=5, heartbeat_seconds=0.1)

# Questions about five events, and the positions of those that answer them.
TOLD = {
    "merchant_id=m-2": [2, 4],
    "topic=location.deleted": [3, 4],
    "merchant_id=m-2&topic=location.deleted": [4],
    "provider=loopz&program_id=p-1": [1, 2, 3, 4],
    "provider=fitbank": [5],
    "stream=" + quote("loopz/m-1/location/a", safe=""): [1, 3],
}


async def deliver(client: Client, *ids: str, merchant: str = "m-1") -> list[int]:
    """Deliver locations; gives back their positions."""
    return [
        (await client.loopz("location.updated", {"id": id_}, merchant=merchant)).json["position"]
        for id_ in ids
    ]


async def test_what_comes_is_told_as_it_comes(client: Client) -> None:
    async with reading(client, "/v1/events/stream") as stream:
        assert await stream.until_id() == "0"
        (position,) = await deliver(client, "a")
        message = await stream.next()
    listed = (await client.request("GET", "/v1/events")).body
    assert (message.id, message.event) == (str(position), "event")
    assert message.data.encode() in listed


async def test_a_stream_begins_where_it_is_asked_to(client: Client) -> None:
    await deliver(client, "a", "b", "c")
    async with reading(client, "/v1/events/stream?after=1") as stream:
        assert await stream.positions(2) == [2, 3]
        await deliver(client, "d")
        assert await stream.positions(1) == [4]


async def test_the_id_of_a_reader_who_comes_back_counts_more_than_where_they_began(
    client: Client,
) -> None:
    await deliver(client, "a", "b", "c")
    async with reading(
        client, "/v1/events/stream?after=0", headers={"Last-Event-ID": "2"}
    ) as stream:
        assert await stream.positions(1) == [3]


async def test_an_id_that_no_stream_gave_out_is_refused(client: Client) -> None:
    answer = await client.request("GET", "/v1/events/stream", headers={"Last-Event-ID": "x"})
    assert answer.status == 400
    assert "Last-Event-ID" in answer.json["detail"]


async def test_only_the_events_of_the_filters_are_told(client: Client) -> None:
    async with AsyncExitStack() as stack:

        async def start(question: str, *, after: int | None = None) -> LiveReader:
            path = f"/v1/events/stream?{question}" + ("" if after is None else f"&after={after}")
            stream = await stack.enter_async_context(reading(client, path))
            assert await stream.until_id() == "0"
            return stream

        live = [await start(question) for question in TOLD]
        for topic in ("location.updated", "location.deleted"):
            for merchant in ("m-1", "m-2"):
                await client.loopz(topic, {"id": "a"}, merchant=merchant)
        purchase = {"BusinessUnitId": 66, "TransactionIdentifier": "t"}
        await client.fitbank({"Method": "UpdatePurchaseClosedLoopStatusMongo", **purchase})
        past = [await start(question, after=0) for question in TOLD]
        for streams in (live, past):
            for stream, told in zip(streams, TOLD.values(), strict=True):
                assert await stream.positions(len(told)) == told


async def test_the_events_of_one_thing_are_told(client: Client) -> None:
    await deliver(client, "a/b", "c", "a/b")
    name = quote("loopz/m-1/location/a%2Fb", safe="")
    async with reading(client, f"/v1/things/{name}/stream?after=0") as stream:
        assert await stream.positions(2) == [1, 3]
        await deliver(client, "c", "a/b")
        assert await stream.positions(1) == [5]


async def test_a_stream_without_events_says_how_far_it_is(start: StartLoopledger) -> None:
    """So that whoever comes back does not begin far behind."""
    async with start(limits=QUICK) as server, aiohttp.ClientSession(server.url) as session:
        client = Client(session)
        async with reading(client, "/v1/events/stream?merchant_id=nobody&after=0") as stream:
            await deliver(client, "a", "b")
            while await stream.until_id() != "2":
                pass
        async with client.session.get("/v1/events/stream") as response:
            assert b":\n" in await response.content.readuntil(b":\n")


async def test_those_of_another_process_are_told_too(
    start: StartLoopledger, appender: Appender
) -> None:
    async with (
        start() as server,
        aiohttp.ClientSession(server.url) as session,
        reading(Client(session), "/v1/events/stream?after=0") as stream,
    ):
        await appender.append(new_event())
        assert await stream.positions(1) == [1]


@pytest.fixture
async def appender(dsn: str) -> AsyncIterator[Appender]:
    """Another process's."""
    database = Database(dsn, pool_connections=2)
    await database.open()
    log = Log(database, Limits())
    await log.start()
    yield log.appender
    await log.stop()
    await database.close()
