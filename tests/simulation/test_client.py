"""Sending a stream: all of it, in order, tried again, timed honestly."""

import asyncio
from collections import Counter, defaultdict

import pytest
from aiohttp import web

from simulation import client
from simulation.client import send
from simulation.deliveries import Rates, deliveries
from tests.support.receiving import accept_into, by_thing, server


async def test_all_are_accepted_and_those_of_one_thing_arrive_in_order() -> None:
    received: list[tuple[str, bytes]] = []
    to_send = list(deliveries(1, 1_000))
    progress: list[int] = []
    async with server(accept_into(received)) as url:
        summary = await send(url, to_send, connections=8, on_progress=progress.append)
    assert (summary.sent, summary.accepted, summary.refused) == (1_000, 1_000, {})
    assert summary.retried == 0
    assert summary.last_position == 1_000
    assert summary.duplicates == sum(delivery.note == "duplicate" for delivery in to_send)
    assert summary.late == sum(delivery.note == "late" for delivery in to_send)
    assert 0 < summary.p50_ms <= summary.p99_ms
    assert summary.deliveries_per_second == pytest.approx(1_000 / summary.seconds)
    assert progress == list(range(1, 1_001))
    assert Counter(received) == Counter((d.path, d.body) for d in to_send)
    things = {delivery.body: delivery.thing for delivery in to_send}
    arrived: dict[str, list[bytes]] = defaultdict(list)
    for _, body in received:
        arrived[things[body]].append(body)
    assert arrived == {
        thing: [delivery.body for delivery in history]
        for thing, history in by_thing(to_send).items()
    }


async def test_the_headers_of_a_delivery_are_sent_and_hardly_any_others() -> None:
    seen: list[set[str]] = []

    async def accept(request: web.Request) -> web.Response:
        seen.append(set(request.headers))
        return web.json_response({"position": 1})

    (delivery,) = deliveries(1, 1, Rates(fitbank=0))
    async with server(accept) as url:
        await send(url, [delivery])
    assert seen == [{*delivery.headers, "Host", "Content-Length"}]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_busy_is_asked_again_after_the_time_it_names(status: int) -> None:
    asked: Counter[bytes] = Counter()

    async def busy_at_first(request: web.Request) -> web.Response:
        body = await request.read()
        asked[body] += 1
        if asked[body] == 1:
            return web.Response(status=status, headers={"Retry-After": "1"})
        return web.json_response({"position": len(asked)})

    async with server(busy_at_first) as url:
        summary = await send(url, deliveries(1, 1))
    assert (summary.accepted, summary.retried, summary.refused) == (1, 1, {})
    assert summary.p50_ms >= 1_000


async def test_a_connection_that_breaks_is_tried_again() -> None:
    broken = 0

    async def break_once(request: web.Request) -> web.Response:
        nonlocal broken
        if not broken:
            broken += 1
            assert request.transport
            request.transport.close()
        return web.json_response({"position": 1})

    async with server(break_once) as url:
        summary = await send(url, deliveries(1, 5), connections=1)
    assert (summary.accepted, summary.retried, summary.refused) == (5, 1, {})


async def test_a_delivery_is_given_up_when_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GIVE_UP_SECONDS", 0.5)

    async def busy(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async with server(busy) as url:
        summary = await send(url, deliveries(1, 2), connections=2)
    assert (summary.accepted, summary.refused) == (0, {"503": 2})
    assert summary.retried >= 2


async def test_a_refusal_is_counted_by_its_status_and_not_tried_again() -> None:
    received = 0

    async def refuse_every_other(_: web.Request) -> web.Response:
        nonlocal received
        received += 1
        if received % 2:
            return web.Response(status=400)
        return web.json_response({"position": received})

    async with server(refuse_every_other) as url:
        summary = await send(url, deliveries(1, 10), connections=1)
    assert (summary.sent, summary.accepted, summary.refused) == (10, 5, {"400": 5})
    assert received == 10


async def test_an_answer_that_is_not_the_servers_own_counts_as_refused() -> None:
    async def welcome(_: web.Request) -> web.Response:
        return web.Response(text="Welcome!")

    async with server(welcome) as url:
        summary = await send(url, deliveries(1, 1))
    assert summary.refused == {"a 200 without a position": 1}


async def test_a_stated_rate_is_kept() -> None:
    async with server(accept_into([])) as url:
        summary = await send(url, deliveries(1, 101), rate=200)
    assert summary.seconds == pytest.approx(0.5, abs=0.2)


async def test_with_a_rate_a_server_that_stalls_cannot_hide_how_long_it_kept_others_waiting() -> (
    None
):
    received = 0

    async def stall_once(_: web.Request) -> web.Response:
        nonlocal received
        received += 1
        if received == 1:
            await asyncio.sleep(0.5)
        return web.json_response({"position": received})

    async with server(stall_once) as url:
        summary = await send(url, deliveries(1, 20), connections=1, rate=100)
    assert summary.p50_ms > 250


async def test_a_run_that_is_stopped_sums_up_what_was_answered() -> None:
    stop = asyncio.Event()

    def stop_at_ten(answered: int) -> None:
        if answered == 10:
            stop.set()

    async with server(accept_into([])) as url:
        endless = deliveries(1, 10**9)
        summary = await send(url, endless, connections=2, on_progress=stop_at_ten, stop=stop)
    assert 10 <= summary.sent == summary.accepted < 100
