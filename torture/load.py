"""The load: providers that send each delivery again and again, with the same bytes, until it gets its 200."""

import asyncio
import random
import re
from collections.abc import Iterator
from http import HTTPStatus

import aiohttp
import msgspec

from simulation.deliveries import Delivery, Rates, deliveries
from torture.client import Client, Connect, NotConnectedError
from torture.sender_log import MARK, Attempt, SenderLog, Sent, digest_of
from web.api.deliveries import Acknowledgement

ENDLESS = 10**9

# The mean rest of a sender between two deliveries, and the longest before it tries again, in seconds.
REST_SECONDS = 0.01
RETRY_SECONDS = (0.02, 0.3)

# How long a provider waits for an answer: some give up long before the server does.
PATIENCE_SECONDS = (2.0, 5.0, 15.0)

# Of all requests, those after which the connection is closed, so that the next may meet another worker.
CLOSING = 0.02

# Of all deliveries: very large ones, ones that cannot be decoded, ones of a topic that nobody handles.
LARGE = 0.02
UNDECODABLE = 0.02
UNHANDLED = 0.02
LARGE_BYTES = (10_000, 200_000)

TOPIC = "X-LOOPZ-WEBHOOK-TOPIC"
_TIME = re.compile(rb'"(updated_on|updatedAt|Date)":"[^"]*"')

# A 4xx says that the delivery is at fault, but for those that ask the sender to come again.
FIRST_REFUSAL, FIRST_OUTAGE = HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR
_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class _Method(msgspec.Struct):
    Method: str


class Load:
    """Senders, each with one delivery under way at a time, by a client of its own."""

    def __init__(self, connect: Connect, sender_log: SenderLog, seed: int) -> None:
        self._connect = connect
        self._sender_log = sender_log
        self._random = random.Random(f"load {seed}")  # noqa: S311 (seeded on purpose)
        self._deliveries = unique(seed)
        self._ending = False

    async def run(self, senders: int) -> None:
        """Send until told to end, and then until the deliveries under way have their 200."""
        async with asyncio.TaskGroup() as group:
            self._sender_log.begin()
            for _ in range(senders):
                group.create_task(self._send())

    def end(self) -> None:
        """Begin no further delivery."""
        self._ending = True

    async def _send(self) -> None:
        async with self._connect() as client:
            while not self._ending:
                delivery = next(self._deliveries)
                number = self._sender_log.enter(sent(delivery))
                while not await self._try(client, delivery, number):  # noqa: ASYNC110 (it waits between tries)
                    await asyncio.sleep(self._random.uniform(*RETRY_SECONDS))
                await asyncio.sleep(self._random.expovariate(1 / REST_SECONDS))

    async def _try(self, client: Client, delivery: Delivery, number: int) -> bool:
        """Make one attempt; says whether the delivery is done with."""
        attempt, mark = self._sender_log.attempt(number)
        try:
            status = await self._post(client, delivery, attempt, mark)
        except NotConnectedError as error:
            attempt.outcome = "unsent"
            answer = str(error)
        except (aiohttp.ClientError, OSError) as error:
            answer = type(error).__name__
        else:
            answer = str(status)
            if FIRST_REFUSAL <= status < FIRST_OUTAGE and status not in _AGAIN:
                self._sender_log.refused.append((number, status))
        self._sender_log.answers[answer] += 1
        return attempt.outcome == "acknowledged"

    async def _post(self, client: Client, delivery: Delivery, attempt: Attempt, mark: str) -> int:
        headers = {**delivery.headers, MARK: mark}
        if self._random.random() < CLOSING:
            headers["Connection"] = "close"
        patience = self._random.choice(PATIENCE_SECONDS)
        answer = await client.post(delivery, headers, patience)
        if answer.status == HTTPStatus.OK:
            try:
                position = msgspec.json.decode(answer.body, type=Acknowledgement).position
            except msgspec.DecodeError:
                # The status alone is a promise.
                position = None
            self._sender_log.acknowledge(attempt, position)
        return answer.status


def sent(delivery: Delivery) -> Sent:
    """What the log has to say of this delivery, found without the code that is under test."""
    topic = delivery.headers.get(TOPIC)
    return Sent(
        provider=delivery.path.rpartition("/")[2],
        topic=topic or msgspec.json.decode(delivery.body, type=_Method).Method,
        stream=delivery.thing,
        digest=digest_of(delivery.body),
    )


def unique(seed: int) -> Iterator[Delivery]:
    """Yield deliveries without end, no two with the same topic and body."""
    chance = random.Random(f"variants {seed}")  # noqa: S311 (seeded on purpose)
    seen: set[bytes] = set()
    for delivery in deliveries(seed, ENDLESS, Rates(duplicate=0)):
        varied = _varied(delivery, chance)
        key = digest_of(varied.headers.get(TOPIC, "").encode() + varied.body)[:12]
        if key not in seen:
            seen.add(key)
            yield varied


def _varied(delivery: Delivery, chance: random.Random) -> Delivery:
    """Make some deliveries hard to take: large, undecodable, or of no use to anybody."""
    drawn = chance.random()
    if drawn < LARGE:
        # White space is part of the bytes, and means nothing.
        padding = bytes(chance.choices(b" \t\r\n", k=chance.randint(*LARGE_BYTES)))
        return msgspec.structs.replace(delivery, body=delivery.body + padding)
    if drawn < LARGE + UNDECODABLE:
        return msgspec.structs.replace(
            delivery, body=_TIME.sub(rb'"\1":"yesterday"', delivery.body)
        )
    if drawn < LARGE + UNDECODABLE + UNHANDLED and TOPIC in delivery.headers:
        kind = delivery.headers[TOPIC].partition(".")[0]
        headers = {**delivery.headers, TOPIC: f"{kind}.polished"}
        return msgspec.structs.replace(delivery, headers=headers)
    return delivery
