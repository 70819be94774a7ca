"""The client: sends each delivery at its moment, and asks for the states of some."""

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import quote

import aiohttp
import msgspec

from benchmarks.harness.command import fail
from benchmarks.harness.signer import Signer
from simulation.deliveries import Delivery
from web.api.deliveries import Acknowledgement

CONNECTIONS = 256
RESPONSE_SECONDS = 30.0

# States that are asked for, a second: few, so that asking does not become the load.
SAMPLES_PER_SECOND = 100


_decode = msgspec.json.Decoder(Acknowledgement).decode


class Client:
    """Sends deliveries to a Loopledger, and keeps how long things took, in seconds."""

    def __init__(self, url: str, signer: Signer) -> None:
        self._url = url
        self._signer = signer
        self._posts = _session()
        self._gets = _session()
        self.answered: list[float] = []
        self.visible: list[float] = []

    async def close(self) -> None:
        """Close the connections."""
        await self._posts.close()
        await self._gets.close()

    async def send_all(self, made: Sequence[Delivery], rate: float) -> float:
        """Send each delivery at its moment; gives back how long it took until the last was answered."""
        ready = [(each, self._signer.headers(each)) for each in made]
        sample = max(1, round(rate / SAMPLES_PER_SECOND))
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for index, (delivery, headers) in enumerate(ready):
                due = began + index / rate
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                group.create_task(self._send(delivery, headers, due, sampled=index % sample == 0))
        return time.perf_counter() - began

    async def _send(
        self, delivery: Delivery, headers: dict[str, str], due: float, *, sampled: bool
    ) -> None:
        url = self._url + delivery.path
        async with self._posts.post(url, data=delivery.body, headers=headers) as response:
            body = await response.read()
            acknowledged = time.perf_counter()
            _check(response, body)
        self.answered.append(acknowledged - due)
        if sampled:
            async with self._gets.get(
                self._url + _state(delivery, _decode(body).position)
            ) as response:
                _check(response, await response.read())
            self.visible.append(time.perf_counter() - acknowledged)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=RESPONSE_SECONDS),
    )


def _check(response: aiohttp.ClientResponse, body: bytes) -> None:
    if response.status != HTTPStatus.OK:
        fail(f"{response.method} {response.url} was answered {response.status}: {body!r}")


def _state(delivery: Delivery, position: int) -> str:
    """Where the state of what a delivery is about is, once it has seen that position."""
    _, merchant, kind, id_ = delivery.thing.split("/")
    return f"/v1/{kind}s/{quote(id_)}?at_least={position}&merchant_id={merchant}"
