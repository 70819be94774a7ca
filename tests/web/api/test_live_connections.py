"""Live streams and their connections: cut at random, never read, idle by the thousand, at a stop."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from yarl import URL

from commands._sse import messages
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from runtime.settings import Settings
from server import running_alone
from tests.conftest import Cluster, StartLoopledger
from tests.support import Client, new_event
from tests.support.live import reading
from tests.support.log import Log

LIMITS = Limits(poll_seconds=0.05, pool_connections=5)


class Site:
    """A server in a loop that stands still between examples."""

    def __init__(self, runner: asyncio.Runner, client: Client) -> None:
        self.run = runner.run
        self.client = client
        self.numbers = itertools.count(1)


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Client:
            dsn = await stack.enter_async_context(cluster.database())
            settings = Settings(port=0, database_url=dsn, limits=LIMITS)
            server = await stack.enter_async_context(running_alone(settings))
            return Client(await stack.enter_async_context(aiohttp.ClientSession(server.url)))

        yield Site(runner, runner.run(start()))
        runner.run(stack.aclose())


async def read_in_pieces(
    client: Client, path: str, begin: str, cuts: list[int], last: int
) -> list[int]:
    """Read a stream over connections that are cut after so many bytes each, then over one that lasts."""
    found: list[int] = []
    last_id = begin
    for cut in [*cuts, None]:
        if int(last_id) >= last:
            break
        headers = {"Last-Event-ID": last_id}
        async with client.session.get(path, headers=headers) as response:
            received = b""
            while cut is None or len(received) < cut:
                received += await response.content.readany()
                seen = [each async for each in messages(lines_of(received), last_id)]
                # All that there is of these.
                if seen and int(seen[-1].id) >= last:
                    break
            received = received[:cut]
            response.close()
        async for message in messages(lines_of(received), last_id):
            last_id = message.id
            if message.data:
                found.append(int(message.id))
    return found


async def lines_of(received: bytes) -> AsyncIterator[bytes]:
    for line in received.splitlines(keepends=True):
        yield line


@hypothesis_settings(max_examples=100)
@given(
    before=st.lists(st.booleans(), max_size=6),
    later=st.lists(st.booleans(), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 3000), max_size=4),
    filtered=st.booleans(),
)
def test_whoever_is_cut_off_at_any_byte_is_told_each_event_once(
    site: Site,
    before: list[bool],
    later: list[bool],
    cuts: list[int],
    filtered: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    """Some of the events are another merchant's; the last one is not."""
    merchant = f"m-{next(site.numbers)}"
    path = "/v1/events/stream" + (f"?merchant_id={merchant}" if filtered else "")

    async def deliver(owns: list[bool]) -> list[int]:
        answers = [
            await site.client.loopz(
                "location.updated", {"id": "x"}, merchant=merchant if own else "others"
            )
            for own in owns
        ]
        positions = [answer.json["position"] for answer in answers]
        return [p for p, own in zip(positions, owns, strict=True) if own or not filtered]

    async def example() -> None:
        (begin,) = await deliver([True])
        told = await deliver(before)
        head = begin + len(before) + len(later) + 1
        reader = asyncio.create_task(read_in_pieces(site.client, path, str(begin), cuts, head))
        told += await deliver([*later, True])
        assert await asyncio.wait_for(reader, 20) == told

    site.run(example())


@asynccontextmanager
async def appending(dsn: str) -> AsyncIterator[Log]:
    database = Database(dsn, pool_connections=2)
    await database.open()
    log = Log(database, Limits())
    await log.start()
    yield log
    await log.stop()
    await database.close()


async def unread(url: URL, path: str) -> socket.socket:
    """Ask for a stream, with next to no room for what comes, and read nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (url.host, url.port))
    await loop.sock_sendall(connection, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


async def test_who_does_not_read_is_cut_off_and_holds_nobody_else_up(
    dsn: str, start: StartLoopledger
) -> None:
    limits = Limits(poll_seconds=0.05, pool_connections=5, write_seconds=0.5)
    async with (
        appending(dsn) as log,
        start(limits=limits) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        # More than the system takes on its way.
        await append(log, 9_000)
        client = Client(session)
        connection = await unread(URL(server.url), "/v1/events/stream?after=0")
        async with reading(client, "/v1/events/stream") as stream:
            await stream.until_id()
            await append(log, 10)
            assert await stream.positions(10) == list(range(9_001, 9_011))
        await asyncio.sleep(1.5)
        received = b""
        with connection, suppress(ConnectionResetError):
            async with asyncio.timeout(20):
                while data := await asyncio.get_running_loop().sock_recv(connection, 65536):
                    received += data
        assert b"id: 9010\n" not in received
        # It was not ended, but cut off.
        assert not received.endswith(b"0\r\n\r\n")


async def append(log: Log, count: int) -> None:
    body = {"id": "x" * 180}
    await asyncio.gather(*(log.appender.append(new_event(body=body)) for _ in range(count)))


async def test_a_thousand_idle_streams_ask_the_database_as_little_as_one(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = itertools.count()
    read = Database._read

    def counted(database: Database, what: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401
        next(count)
        return read(database, what)

    limits = Limits(poll_seconds=0.2, heartbeat_seconds=0.3, address_connections=2_000)
    async with (
        start(limits=limits) as server,
        aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session,
        AsyncExitStack() as stack,
    ):

        async def open_stream(number: int) -> aiohttp.ClientResponse:
            path = "/v1/events/stream" + (f"?merchant_id=m-{number}" if number % 2 else "")
            response = await stack.enter_async_context(session.get(path))
            await response.content.readuntil(b"\n\n")
            return response

        streams = [await open_stream(number) for number in range(1_000)]
        monkeypatch.setattr(Database, "_read", counted)
        before = next(count)
        await asyncio.sleep(1)
        assert next(count) - before < 100
        # All of them are alive: each has had its heartbeats, and is told what comes.
        await Client(session).loopz("location.updated", {"id": "x"}, merchant="m-1")
        told = [await stream.content.readuntil(b"\n\n") for stream in streams[::2]]
        assert all(each.startswith(b":") for each in told)
        async with asyncio.timeout(20):
            for stream in streams[::100]:
                await stream.content.readuntil(b"event: event\n")


async def test_of_too_many_streams_the_last_is_refused(start: StartLoopledger) -> None:
    limits = Limits(poll_seconds=0.05, pool_connections=5, key_streams=2)
    async with start(limits=limits) as server, aiohttp.ClientSession(server.url) as session:
        client = Client(session)
        async with (
            reading(client, "/v1/events/stream"),
            reading(client, "/v1/events/stream"),
        ):
            refused = await client.get("/v1/events/stream")
            assert (refused.status, refused.json["limit"]) == (429, 2)
        # Those who have left without a word are noticed.
        async with asyncio.timeout(10):
            while True:
                with suppress(AssertionError):
                    async with reading(client, "/v1/events/stream"):
                        break
                await asyncio.sleep(0.05)


async def test_a_stop_ends_streams_and_does_not_wait_for_them(start: StartLoopledger) -> None:
    limits = Limits(poll_seconds=0.05, pool_connections=5, drain_seconds=60)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(start(limits=limits))
        async with (
            aiohttp.ClientSession(server.url) as session,
            reading(Client(session), "/v1/events/stream") as stream,
        ):
            await stream.until_id()
            async with asyncio.timeout(20):
                stopping = asyncio.create_task(stack.aclose())
                # It ends as it should, not in the middle.
                assert await stream.rest() == []
                await stopping
