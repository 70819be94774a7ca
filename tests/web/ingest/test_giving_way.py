"""Who gives way where strangers take all the room of an address: never one whose delivery is on its way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import loopz_headers
from tests.support.sender import Sender, connected
from tests.support.verified import BODY, VERIFICATIONS, WithVerification, signed
from tests.web.ingest.test_crowds import head, in_pieces

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def silent(url: str, count: int) -> AsyncIterator[list[Sender]]:
    """Connections that send nothing."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(url)) for _ in range(count)]


@pytest.mark.parametrize("name", ["bearer", "hmac"])
@pytest.mark.parametrize("way", ["whole", "head, then body", "head in pieces"])
async def test_a_delivery_on_its_way_does_not_give_way_to_a_burst_of_newcomers(
    verified: WithVerification, name: str, way: str
) -> None:
    """The burst is as large as the limit; all are accepted before a byte of the delivery is read."""
    path, headers = signed(VERIFICATIONS[name])
    begun = head(path, headers)
    limits = Limits(address_connections=20, fresh_seconds=30)
    async with (
        verified(VERIFICATIONS[name], limits=limits) as client,
        silent(client.base_url, 5),
        connected(client.base_url) as sender,
    ):
        cut = {"whole": len(begun), "head, then body": len(begun), "head in pieces": 40}[way]
        sent = 0 if way == "whole" else cut
        sender.writer.write(begun[:sent])
        async with silent(client.base_url, 20):
            assert (await sender.send(begun[sent:] + BODY)).status == 200


async def test_who_had_time_to_show_who_it_is_gives_way_before_who_has_just_come(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    limits = Limits(address_connections=4, fresh_seconds=0.3)
    async with verified(VERIFICATIONS["hmac"], limits=limits) as client:
        url = client.base_url
        async with silent(url, 2) as old:
            await asyncio.sleep(0.4)
            async with silent(url, 4) as new:
                assert [await each.closed() for each in old] == [True, True]
                for each in new:
                    assert await in_pieces(each, head(path, headers)) == 200


async def test_a_body_whose_head_verifies_it_does_not_give_way_however_slow_it_is(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    limits = Limits(address_connections=3, fresh_seconds=0.001)
    async with (
        verified(VERIFICATIONS["bearer"], limits=limits) as client,
        connected(client.base_url) as sender,
    ):
        sender.writer.write(head(path, headers) + BODY[:1])
        await asyncio.sleep(0.1)
        async with silent(client.base_url, 12):
            assert (await sender.send(BODY[1:])).status == 200


async def test_who_was_refused_gives_way_before_who_is_silent(verified: WithVerification) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    wrong = {**headers, "Authorization": "Bearer wrong"}
    limits = Limits(address_connections=3, fresh_seconds=0.001)
    async with verified(VERIFICATIONS["bearer"], limits=limits) as client:
        url = client.base_url
        async with silent(url, 1) as waiting, connected(url) as whole, connected(url) as pieces:
            assert (await whole.send(head(path, wrong) + BODY)).status == 401
            async with silent(url, 1):
                assert await whole.closed()
                assert (await pieces.send(HEALTH)).status == 200
                assert (await waiting[0].send(head(path, headers) + BODY)).status == 200


async def test_known_senders_take_no_room_from_the_new_connections_of_their_address(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    right = head(path, headers) + BODY
    limits = Limits(address_connections=3, fresh_seconds=30)
    async with verified(VERIFICATIONS["hmac"], limits=limits) as client:
        url = client.base_url
        async with silent(url, 3) as known:
            for each in known:
                assert (await each.send(right)).status == 200
            async with connected(url) as newcomer, silent(url, 5):
                assert (await newcomer.send(right)).status == 200
                for each in known:
                    assert (await each.send(right)).status == 200


async def test_of_an_address_with_very_many_known_senders_the_idle_ones_beyond_its_limit_give_way(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    right = head(path, headers) + BODY
    limits = Limits(address_connections=2, fresh_seconds=0.001)
    async with verified(VERIFICATIONS["hmac"], limits=limits) as client:
        url = client.base_url
        async with AsyncExitStack() as stack:
            senders = []
            for _ in range(5):
                senders.append(await stack.enter_async_context(connected(url)))
                assert (await senders[-1].send(right)).status == 200
                await asyncio.sleep(0.01)
            assert await senders[2].closed()
            for each in (0, 1, 3, 4):
                assert (await senders[each].send(right)).status == 200


async def test_newcomers_without_end_do_not_take_more_than_twice_the_room(
    start: StartLoopledger,
) -> None:
    limits = Limits(address_connections=5, fresh_seconds=30)
    async with start(limits=limits) as loopledger, silent(loopledger.url, 13) as senders:
        assert [await each.closed() for each in senders[:3]] == [True] * 3
        for each in senders[3:]:
            assert (await each.send(HEALTH)).status == 200


async def test_a_head_of_usual_size_does_not_give_way_to_endless_ones(
    start: StartLoopledger,
) -> None:
    """The endless ones came later: by the time alone, the usual one would have to give way."""
    endless = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 8_000 + b"\r\nY: " + b"y" * 8_000
    limits = Limits(unused_bytes=60_000, head_bytes=20_000)
    async with start(limits=limits) as loopledger, connected(loopledger.url) as usual:
        usual.writer.write(HEALTH[:-2])
        await asyncio.sleep(0.05)
        async with AsyncExitStack() as stack:
            for _ in range(8):
                other = await stack.enter_async_context(connected(loopledger.url))
                other.writer.write(endless)
            await asyncio.sleep(0.1)
            assert (await usual.send(b"\r\n")).status == 200


async def test_a_body_of_usual_size_does_not_give_way_to_large_ones(start: StartLoopledger) -> None:
    headers = loopz_headers("location.updated")
    large = head("/webhooks/loopz", headers, size=200_000) + b" " * 150_000
    async with (
        start(limits=Limits(stranger_reading_bytes=400_000)) as loopledger,
        connected(loopledger.url) as usual,
    ):
        usual.writer.write(head("/webhooks/loopz", headers) + BODY[:5])
        await asyncio.sleep(0.05)
        async with AsyncExitStack() as stack:
            for _ in range(6):
                other = await stack.enter_async_context(connected(loopledger.url))
                other.writer.write(large)
            await asyncio.sleep(0.2)
            assert (await usual.send(BODY[5:])).status == 200
