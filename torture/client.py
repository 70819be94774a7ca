"""How a sender sends: through aiohttp's client; or byte by byte as it likes, whole or in pieces."""

import asyncio
import hashlib
import hmac
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple, Protocol

import aiohttp

from simulation.deliveries import Delivery
from torture.timings import Timing

# The ways to send a request: at once; head, then body; in pieces cut anywhere; in chunks; or the body once it is asked
# for.
WAYS = ("whole", "head, then body", "in pieces", "in chunks", "100-continue")
PIECES = (2, 6)
# Seconds between two pieces.
PIECE_SECONDS = (0.001, 0.02)

CONTINUE = str(HTTPStatus.CONTINUE.value).encode()


class Answer(NamedTuple):
    """The response to a delivery."""

    status: int
    body: bytes


class NotConnectedError(OSError):
    """Nobody listened: nothing was sent."""


class Client(Protocol):
    """Sends deliveries, one at a time."""

    async def post(self, delivery: Delivery, headers: dict[str, str], seconds: float) -> Answer:
        """Send one, and wait so long for the response.

        Raises NotConnectedError if nothing was sent, OSError or aiohttp.ClientError if it may have been.
        """


# Makes the client of one sender.
Connect = Callable[[], AbstractAsyncContextManager[Client]]


class AiohttpClient:
    """Sends with aiohttp's client."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, delivery: Delivery, headers: dict[str, str], seconds: float) -> Answer:
        """As in Client."""
        try:
            async with self._session.post(
                delivery.path,
                data=delivery.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                return Answer(response.status, await _body_of(response))
        except aiohttp.ClientConnectorError as error:
            raise NotConnectedError(type(error).__name__) from None


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, OSError):
        # The status alone is a promise, whatever became of the rest.
        return b""


@asynccontextmanager
async def aiohttp_client(url: str) -> AsyncIterator[Client]:
    """A client with connections of its own."""
    async with aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield AiohttpClient(session)


class Credentials(NamedTuple):
    """How a provider's deliveries are verified: an HMAC of the body, or a token; and the address they come from."""

    address: str
    secret: str
    signs: bool

    def headers(self, body: bytes) -> dict[str, str]:
        """What shows whose this delivery is."""
        if not self.signs:
            return {"Authorization": f"Bearer {self.secret}"}
        signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        return {"X-Hub-Signature-256": f"sha256={signature}"}


class PieceClient:
    """Sends verified deliveries in one of the WAYS, and notes in `timings` how long each took.

    Its own pauses between pieces do not count.
    """

    def __init__(
        self,
        port: int,
        credentials: dict[str, Credentials],
        chance: random.Random,
        timings: list[Timing],
    ) -> None:
        self._port = port
        self._credentials = credentials
        self._random = chance
        self._timings = timings
        self._streams: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._paused = 0.0

    async def post(self, delivery: Delivery, headers: dict[str, str], seconds: float) -> Answer:
        """As in Client."""
        way = self._random.choice(WAYS)
        began, self._paused = time.monotonic(), 0.0
        outcome = "cancelled"
        try:
            async with asyncio.timeout(seconds):
                answer = await self._post(delivery, headers, way)
            outcome = str(answer.status)
        except OSError as error:
            outcome = type(error).__name__
            self._close(delivery.path)
            raise
        finally:
            ended = time.monotonic()
            self._timings.append(Timing(began, ended, ended - began - self._paused, way, outcome))
        return answer

    async def _post(self, delivery: Delivery, headers: dict[str, str], way: str) -> Answer:
        path = delivery.path
        credentials = self._credentials[path.rpartition("/")[2]]
        reader, writer = await self._connected(path, credentials.address)
        head = head_of(delivery, {**headers, **credentials.headers(delivery.body)}, way)
        await self._write(
            writer, [head] if way == "100-continue" else self._cut(head, delivery, way)
        )
        try:
            lines, body = await _read(reader)
            if lines[9:12] == CONTINUE:
                writer.write(delivery.body)
                lines, body = await _read(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise ConnectionResetError(type(error).__name__) from None
        if b"\r\nconnection: close" in lines.lower() or "Connection" in headers:
            self._close(path)
        return Answer(int(lines[9:12]), body)

    def close(self) -> None:
        """Close its connections."""
        for path in tuple(self._streams):
            self._close(path)

    async def _connected(
        self, path: str, address: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = self._streams.get(path)
        if streams is None or streams[0].at_eof() or streams[1].is_closing():
            self._close(path)
            try:
                streams = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=(address, 0), family=socket.AF_INET
                )
            except OSError as error:
                raise NotConnectedError(type(error).__name__) from None
            self._streams[path] = streams
        return streams

    def _close(self, path: str) -> None:
        if (streams := self._streams.pop(path, None)) is not None:
            streams[1].transport.abort()

    def _cut(self, head: bytes, delivery: Delivery, way: str) -> list[bytes]:
        body = delivery.body
        if way == "whole":
            return [head + body]
        if way == "head, then body":
            return [head, body]
        if way == "in chunks":
            parts = [b"%x\r\n%b\r\n" % (len(each), each) for each in self._pieces(body)]
            return [head, *parts, b"0\r\n\r\n"]
        return self._pieces(head + body)

    def _pieces(self, data: bytes) -> list[bytes]:
        count = min(self._random.randint(*PIECES), len(data))
        cuts = sorted(self._random.sample(range(1, len(data)), count - 1))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    async def _write(self, writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
        for number, piece in enumerate(pieces):
            if number:
                began = time.monotonic()
                await asyncio.sleep(self._random.uniform(*PIECE_SECONDS))
                self._paused += time.monotonic() - began
            if not writer.is_closing():
                writer.write(piece)


def head_of(delivery: Delivery, headers: dict[str, str], way: str) -> bytes:
    """The head of a delivery that is sent in this way."""
    framing = f"Content-Length: {len(delivery.body)}"
    lines = [
        f"POST {delivery.path} HTTP/1.1",
        "Host: localhost",
        "Transfer-Encoding: chunked" if way == "in chunks" else framing,
        *(["Expect: 100-continue"] if way == "100-continue" else []),
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head, await reader.readexactly(int(size or 0))
