"""Live streams and keys: each shows what its key may see, and for as long as the key is in force."""

import base64
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import aiohttp
import pytest

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.keys import key_in, revoke_in
from tests.support.live import reading


@pytest.fixture
async def client(start: StartLoopledger) -> AsyncIterator[Client]:
    limits = Limits(poll_seconds=0.05, pool_connections=5, heartbeat_seconds=0.1)
    async with start(limits=limits) as server, aiohttp.ClientSession(server.url) as session:
        yield Client(session)


async def test_the_streams_of_a_key_that_is_revoked_end(client: Client, dsn: str) -> None:
    bearer = Client(client.session, await key_in(dsn))
    async with reading(bearer, "/v1/events/stream") as stream:
        await stream.until_id()
        await revoke_in(dsn)
        assert await stream.rest() == []
    assert (await bearer.get("/v1/events/stream")).status == 401


async def test_a_key_of_one_merchant_is_told_nothing_of_others_nor_how_far_the_log_is(
    client: Client, dsn: str
) -> None:
    bearer = Client(client.session, await key_in(dsn, merchants=["m-1"]))
    for merchant in ("m-1", "m-2", "m-1", "m-2"):
        body = {"id": f"of {merchant}"}
        await client.loopz("location.updated", body, merchant=merchant)
    await client.get("/v1/locations?at_least=4")
    other = quote("loopz/m-2/location/of%20m-2", safe="")
    for path, told in {
        "/v1/events/stream?after=0": ["1", "3"],
        "/v1/locations/stream?after=0": ["1-1"],
        "/v1/events/stream?after=0&merchant_id=m-2": [],
        "/v1/locations/stream?after=0&merchant_id=m-2": [],
        f"/v1/things/{other}/stream?after=0": [],
        "/v1/events/stream": [],
    }.items():
        headers = {"Authorization": f"Bearer {bearer.key}"}
        async with client.session.get(path, headers=headers) as response:
            assert response.status == 200, (path, await response.text())
            text = b""
            while text.count(b":\n\n") < len(told) + 2:
                text += await response.content.readany()
        ids = [line[4:] for line in text.decode().splitlines() if line.startswith("id: ")]
        assert [id_ for id_ in ids if id_ not in {"0", "1-0"}] == told, path


async def test_a_promotion_does_not_tell_a_key_of_one_merchant_how_far_the_log_is(
    client: Client, dsn: str
) -> None:
    bearer = Client(client.session, await key_in(dsn, merchants=["m-1"]))
    for merchant in ("m-1", "m-2"):
        await client.loopz("location.updated", {"id": "a"}, merchant=merchant)
    await client.get("/v1/locations?at_least=2")
    async with reading(bearer, "/v1/locations/stream?after=0") as stream:
        assert (await stream.next()).id == "1-1"
        await client.request("POST", "/v1/projections/locations/rebuild?promote=true")
        message = await stream.next(60)
        assert (message.id, message.event) == ("2-1", "reset")
        await client.loopz("location.updated", {"id": "a", "name": "b"})
        assert (await stream.next()).id == "2-3"


async def test_bodies_are_told_to_those_who_may_see_them(client: Client, dsn: str) -> None:
    may = Client(client.session, await key_in(dsn, "read", "raw"))
    may_not = Client(client.session, await key_in(dsn, "read"))
    body = b'{"id" : "a",\n "name":"b"}'
    await client.loopz("location.updated", body)
    path = "/v1/events/stream?after=0&body=true"
    async with reading(may, path) as stream:
        assert base64.b64decode(json.loads((await stream.next()).data)["body"]) == body
        await client.loopz("location.updated", body + b" ")
        assert base64.b64decode(json.loads((await stream.next()).data)["body"]) == body + b" "
    assert (await may_not.get(path)).status == 403
