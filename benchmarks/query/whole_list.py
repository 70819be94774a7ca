"""How fast a whole list comes as CSV, and what that takes of memory."""

import time
from http import HTTPStatus

import aiohttp
import msgspec

from benchmarks.harness.command import fail
from benchmarks.harness.servers import Server
from benchmarks.harness.usage import memory_of


class WholeList(msgspec.Struct, frozen=True, kw_only=True):
    """A list that was read to its end. Memory is that of the processes that answer, in bytes: before, and the most."""

    rows: int
    bytes: int
    seconds: float
    memory_before: int
    memory_most: int


async def read_cards(server: Server) -> WholeList:
    """Read all gift cards as CSV. Raises BenchmarkError if they do not come."""
    before = most = memory_of(server.http)
    lines = size = 0
    looked = began = time.perf_counter()
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.get(f"{server.url}/v1/gift-cards", headers={"Accept": "text/csv"}) as response,
    ):
        if response.status != HTTPStatus.OK:
            fail(f"a list as CSV was answered {response.status}")
        async for chunk in response.content.iter_any():
            lines += chunk.count(b"\n")
            size += len(chunk)
            if time.perf_counter() - looked > 1:
                looked = time.perf_counter()
                most = max(most, memory_of(server.http))
    return WholeList(
        rows=lines - 1,
        bytes=size,
        seconds=time.perf_counter() - began,
        memory_before=before,
        memory_most=max(most, memory_of(server.http)),
    )
