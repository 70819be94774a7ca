"""How soon those who follow the log by filtered live streams see an event."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import msgspec

from benchmarks.harness.command import fail
from benchmarks.harness.report import percentile
from benchmarks.harness.signer import Signer
from simulation.deliveries import Delivery
from simulation.world import encode
from web.api.deliveries import Acknowledgement

# Deliveries that the streams tell of, a second: each goes to all of them.
PROBES_PER_SECOND = 5
MERCHANT = "m-followed"
FILTER = f"/v1/events/stream?merchant_id={MERCHANT}&topic=gift-card.updated"

# How long an event may be under way to the last stream.
LONGEST_SECONDS = 3.0


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """How long after its 200 an event was there, of `streams` each of `events`."""

    streams: int
    events: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class _Watch:
    """When each event was acknowledged, and when each stream told it."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, float] = {}
        self.seen: list[tuple[int, float]] = []

    async def follow(self, lines: aiohttp.StreamReader) -> None:
        async for line in lines:
            if line.startswith(b"id:"):
                self.seen.append((int(line[3:]), time.perf_counter()))

    def seconds(self) -> list[float]:
        """How long each took on each stream: nothing, where it was there before the 200."""
        acknowledged = self.acknowledged
        return [max(0.0, at - acknowledged[n]) for n, at in self.seen if n in acknowledged]


async def measure_streams(url: str, signer: Signer, count: int, seconds: float) -> Streams:
    """Follow the log by so many streams. Raises BenchmarkError if one misses an event."""
    watch = _Watch()
    async with _session() as session, asyncio.TaskGroup() as group:
        started = [asyncio.Event() for _ in range(count)]
        following = [group.create_task(_follow(session, url, watch, ready)) for ready in started]
        await asyncio.gather(*(ready.wait() for ready in started))
        for n in range(round(seconds * PROBES_PER_SECOND)):
            position = await _deliver(session, url, signer, n)
            watch.acknowledged[position] = time.perf_counter()
            await asyncio.sleep(1 / PROBES_PER_SECOND)
        await asyncio.sleep(LONGEST_SECONDS)
        for task in following:
            task.cancel()
    took = watch.seconds()
    if len(took) != count * len(watch.acknowledged):
        fail(f"{count} streams told {len(took)} times of {len(watch.acknowledged)} events")
    return Streams(
        streams=count,
        events=len(watch.acknowledged),
        p50_ms=percentile(took, 0.50) * 1000,
        p99_ms=percentile(took, 0.99) * 1000,
        max_ms=max(took) * 1000,
    )


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield session


async def _follow(
    session: aiohttp.ClientSession, url: str, watch: _Watch, ready: asyncio.Event
) -> None:
    async with session.get(url + FILTER) as response:
        if response.status != HTTPStatus.OK:
            fail(f"a stream was answered {response.status}: {await response.text()}")
        ready.set()
        await watch.follow(response.content)


async def _deliver(session: aiohttp.ClientSession, url: str, signer: Signer, n: int) -> int:
    delivery = Delivery(
        path="/webhooks/loopz",
        headers={
            "Content-Type": "application/json",
            "X-LOOPZ-WEBHOOK-TOPIC": "gift-card.updated",
            "X-LOOPZ-MERCHANT-ID": MERCHANT,
            "X-LOOPZ-PROGRAM-ID": "p-1",
        },
        body=encode({"id": f"followed-card-{n}", "balance": {"amount": n, "currencyCode": "EUR"}}),
        thing=f"loopz/{MERCHANT}/gift-card/followed-card-{n}",
    )
    headers = signer.headers(delivery)
    async with session.post(url + delivery.path, data=delivery.body, headers=headers) as response:
        body = await response.read()
        if response.status != HTTPStatus.OK:
            fail(f"a delivery was answered {response.status}: {body!r}")
        return msgspec.json.decode(body, type=Acknowledgement).position
