"""Sends deliveries over HTTP as fast as the server takes them, or at a given rate.

All deliveries of one thing go to the same worker, and a worker sends one delivery at a time: so they
stay in order, whatever the number of connections.
"""

import asyncio
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import perf_counter

import aiohttp
import msgspec

from simulation.deliveries import Delivery

__all__ = ["Summary", "send"]

QUEUED_PER_WORKER = 32
RESPONSE_SECONDS = 15.0
GIVE_UP_SECONDS = 30.0
"""How long a delivery is retried before it counts as refused."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""Between two attempts; the longest also bounds the server's Retry-After."""


class Summary(msgspec.Struct, frozen=True):
    """The results of a run: `sent` is `accepted` plus all `refused`.

    `refused` counts by cause: an HTTP status or the name of an error. `duplicates` and `late` count
    those among the deliveries that were sent. The percentiles are of accepted deliveries, retries included.
    """

    sent: int
    accepted: int
    refused: dict[str, int]
    retried: int
    duplicates: int
    late: int
    seconds: float
    p50_ms: float
    p99_ms: float
    last_position: int

    @property
    def deliveries_per_second(self) -> float:
        """Accepted deliveries per second, over the whole run."""
        return self.accepted / self.seconds if self.seconds else 0.0


async def send(
    base_url: str,
    deliveries: Iterable[Delivery],
    *,
    connections: int = 32,
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Send the deliveries; return a summary after the last response.

    With a `rate` (deliveries per second) each is due at its own time, however slow the server is, and
    its latency counts from then: a server that stalls cannot hide how many it kept waiting.
    `on_progress` gets the number of responses so far, after each. Setting `stop` ends the run early:
    requests under way are dropped, and the summary covers those that had a response.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=RESPONSE_SECONDS),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
    ) as session:
        sender = _Sender(session, base_url.rstrip("/"), on_progress or (lambda _: None))
        started = perf_counter()
        await sender.send_all(deliveries, connections, rate, stop or asyncio.Event())
        return sender.summary(perf_counter() - started)


class _Accepted(msgspec.Struct):
    """The body of a 200."""

    position: int


_Queue = asyncio.Queue[tuple[Delivery, float] | None]
_decode_accepted = msgspec.json.Decoder(_Accepted).decode
_TRY_LATER = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


class _StoppedError(Exception):
    """The run is to end early."""


class _Sender:
    """The workers of one run, and their common counts."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, on_progress: Callable[[int], None]
    ) -> None:
        self._session = session
        self._base_url = base_url
        self._on_progress = on_progress
        self._sent = 0
        self._retried = 0
        self._refused: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._milliseconds = array("f")
        self._last_position = 0

    async def send_all(
        self,
        deliveries: Iterable[Delivery],
        connections: int,
        rate: float | None,
        stop: asyncio.Event,
    ) -> None:
        queues = [_Queue(QUEUED_PER_WORKER) for _ in range(connections)]
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_raise_when(stop))
                workers = [group.create_task(self._work(queue)) for queue in queues]
                await _feed(deliveries, queues, rate)
                await asyncio.wait(workers)
                watch.cancel()
        except* _StoppedError:
            pass

    async def _work(self, queue: _Queue) -> None:
        while (item := await queue.get()) is not None:
            delivery, due = item
            started = due or perf_counter()
            refusal = await self._deliver(delivery)
            if refusal is None:
                self._milliseconds.append(max(0.0, perf_counter() - started) * 1000)
            else:
                self._refused[refusal] += 1
            self._sent += 1
            self._notes[delivery.note] += 1
            self._on_progress(self._sent)

    async def _deliver(self, delivery: Delivery) -> str | None:
        """Send until the server decides or time is up; return the cause if it was refused."""
        give_up = perf_counter() + GIVE_UP_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while True:
            retry_after = None
            try:
                status, retry_after, body = await self._post(delivery)
            except (aiohttp.ClientError, OSError) as error:
                cause = type(error).__name__
            else:
                if status == HTTPStatus.OK:
                    return self._accept(body)
                cause = str(status)
                if status not in _TRY_LATER:
                    return cause
            wait = _bounded(retry_after, pause)
            if perf_counter() + wait > give_up:
                return cause
            self._retried += 1
            await asyncio.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _post(self, delivery: Delivery) -> tuple[int, str | None, bytes]:
        url = self._base_url + delivery.path
        async with self._session.post(
            url, data=delivery.body, headers=delivery.headers, allow_redirects=False
        ) as response:
            return response.status, response.headers.get("Retry-After"), await response.read()

    def _accept(self, body: bytes) -> str | None:
        try:
            position = _decode_accepted(body).position
        except msgspec.DecodeError:
            return "a 200 without a position"
        self._last_position = max(self._last_position, position)
        return None

    def summary(self, seconds: float) -> Summary:
        ordered = sorted(self._milliseconds)
        return Summary(
            sent=self._sent,
            accepted=len(ordered),
            refused=dict(self._refused),
            retried=self._retried,
            duplicates=self._notes["duplicate"],
            late=self._notes["late"],
            seconds=seconds,
            p50_ms=_percentile(ordered, 0.50),
            p99_ms=_percentile(ordered, 0.99),
            last_position=self._last_position,
        )


async def _raise_when(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _StoppedError


async def _feed(deliveries: Iterable[Delivery], queues: list[_Queue], rate: float | None) -> None:
    """Give each delivery to its worker when it is due; 0.0 means whenever the worker is free."""
    started = perf_counter()
    for number, delivery in enumerate(deliveries):
        due = 0.0
        if rate is not None:
            due = started + number / rate
            if (early := due - perf_counter()) > 0:
                await asyncio.sleep(early)
        worker = zlib.crc32(delivery.thing.encode()) % len(queues)
        await queues[worker].put((delivery, due))
    for queue in queues:
        await queue.put(None)


def _bounded(retry_after: str | None, otherwise: float) -> float:
    """Return the seconds to wait; a Retry-After that is no number is ignored."""
    if retry_after is None or not retry_after.isdecimal():
        return otherwise
    return min(max(FIRST_PAUSE_SECONDS, float(retry_after)), LONGEST_PAUSE_SECONDS)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0
