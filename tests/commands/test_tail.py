"""`loopledger tail`: the newest events, and those that come, over any number of breaks."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from yarl import URL

from commands import tail
from commands._http import ServerAddress, api_client
from commands._sse import follow
from eventstore.tasks import in_background
from tests.support import ROOT, Client
from tests.support.running_commands import run_command


async def deliver(client: Client, *ids: str) -> None:
    for id_ in ids:
        await client.loopz("location.updated", {"id": id_})


async def test_the_newest_events_are_printed_a_line_each(client: Client) -> None:
    await deliver(client, "a", "b", "c")
    result = await run_command(tail, client.base_url, "--last", "2")
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("2", "location.updated", "loopz/m-1/location/b"),
        ("3", "location.updated", "loopz/m-1/location/c"),
    ]


async def test_for_programs_each_event_is_a_line_of_json(client: Client) -> None:
    await deliver(client, "a", "b", "a")
    options = ["--since", "0", "--json", "--filter", "stream=loopz/m-1/location/a"]
    result = await run_command(tail, client.base_url, *options)
    assert [json.loads(line)["position"] for line in result.out.splitlines()] == [1, 3]


async def test_a_filter_that_there_is_not_is_refused(client: Client) -> None:
    result = await run_command(tail, client.base_url, "--filter", "colour=red")
    assert result.code == 1
    assert "colour" in result.err


async def test_followed_it_goes_on_with_what_comes(client: Client) -> None:
    await deliver(client, "a", "b")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "commands", "tail", "-f", "--last", "1", "--url", client.base_url,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert b"location/b" in await process.stdout.readline()
            await deliver(client, "c")
            assert b"location/c" in await process.stdout.readline()
    finally:
        process.kill()
        await process.communicate()


@asynccontextmanager
async def cutting(target: URL, size: int) -> AsyncIterator[str]:
    """A way to a server that is cut after so many bytes of each response."""

    async def pass_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection(target.host, target.port)
        async with in_background(pass_requests(reader, back)):
            left = size
            while left > 0 and (data := await onward.read(left)):
                writer.write(data)
                left -= len(data)
        writer.close()
        back.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_stream_that_breaks_again_and_again_brings_each_event_once(client: Client) -> None:
    ids = [f"l-{number}" for number in range(12)]
    await deliver(client, *ids)
    positions: list[int] = []
    breaks: list[str] = []
    # Two events and a piece of the third.
    async with (
        asyncio.timeout(30),
        cutting(URL(client.base_url), 1300) as url,
        api_client(ServerAddress(url, "a test")) as asking,
    ):
        async for message in follow(asking, "/v1/events/stream?after=0", "", breaks.append):
            if message.data:
                positions.append(int(message.id))
            if len(positions) == len(ids):
                break
    assert positions == list(range(1, 13))
    assert breaks
