"""The fast path and aiohttp alone: mutated requests, whole and cut, have the same answers and records with both.

Most run in memory: two servers, each with its own connections, appender and rejections. A few run over TCP, on real
Postgres. `FUZZ_SEED=<seed>` repeats a run, `FUZZ_REQUESTS=<n>` makes it longer.
"""

import asyncio
import itertools
import logging
import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import asyncpg
import msgspec
import pytest
from aiohttp import web

from eventstore.limits import Limits
from providers import load_providers
from providers.loopz import Settings as LoopzSettings
from runtime.secrets import read_secret
from runtime.settings import Settings
from runtime.wiring import make_runner
from server import running_alone
from tests.conftest import Cluster
from tests.support import values
from tests.support.http import without_ids
from tests.support.in_memory import (
    MemoryAppender,
    MemoryRejections,
    MemoryTransport,
    without_times,
)
from tests.support.mutation import BODIES, PATH_SECRET, SECRET, Piece, request
from verification.verifier import Verification, Verifier
from web.api import deliveries
from web.app import add_delivery_path
from web.context import Endpoint
from web.cross_origin import CORS_ORIGINS
from web.ingest import connections, handed
from web.ingest.connections import ConnectionServer, connection_server
from web.ingest.handed import HandedConnection
from web.ingest.receiver import Receiver
from web.problems import problems
from web.responses import add_common_headers

SEED = os.environ.get("FUZZ_SEED", "1")
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000"))
ON_POSTGRES = 40

LIMITS = Limits(body_bytes=2_000, address_requests_at_once=10**9)

VERIFICATIONS: dict[str, dict[str, Any]] = {
    "open": {},
    "path": {"path": [{"env": "FUZZ_PATH"}]},
    "hmac": {"hmac": {"header": "X-Signature", "secrets": [{"env": "FUZZ_HMAC"}]}},
    "proxy": {"addresses": ["203.0.113.0/24"], "trusted_proxies": 1},
}

# The head of a response: JSON holds no line ends.
HEAD = re.compile(rb"HTTP/\d\.\d \d{3} .*?\r\n\r\n", re.DOTALL)

# What is no HTTP has another answer from aiohttp's server alone, in which each of them ends a connection.
NO_HTTP = re.compile(
    rb"HTTP/1\.[01] 400 Bad Request\r\n(?:[^\r]+\r\n)*Content-Type: text/plain(?:.|\n)*"
    rb'|HTTP/1\.[01] 4(?:00|31) [^\r]+\r\n(?:[^\r]+\r\n)+\r\n\{[^\n]*:problem:(?:malformed|head-too-large)"'
    rb"(?:.|\n)*",
)

# Where bodies may end, in bytes behind their heads.
BODY_ENDS = {*range(60), *(len(body) for body in BODIES)}

# Turns of the loop without any change, after which nothing more comes: more than any of the two paths ever takes.
QUIET_TURNS = 12


class Seen(NamedTuple):
    """What came of a request: what was sent back, whether the connection was closed, what was recorded."""

    reply: bytes
    closed: bool
    events: list[dict[str, object]]
    rejections: list[dict[str, object]]


class InMemory:
    """A server in memory, with the fast path or without."""

    def __init__(
        self, server: ConnectionServer, appender: MemoryAppender, rejections: MemoryRejections
    ) -> None:
        self._server = server
        self._appender = appender
        self._rejections = rejections

    async def exchange(self, pieces: list[Piece]) -> Seen:
        """Send pieces over a connection of their own."""
        self._appender.events.clear()
        self._rejections.noted.clear()
        connection = MemoryTransport(self._server())
        for data, wait in pieces:
            if connection.closing:
                break
            connection.receive(data)
            if wait:
                await self._quiet(connection)
        await self._quiet(connection)
        reply, closed = bytes(connection.written), connection.closing
        connection.close()
        await self._quiet(connection)
        return Seen(
            lasting(reply),
            closed,
            [without_times(event) for event in self._appender.events],
            [without_times(rejection) for rejection in self._rejections.noted],
        )

    async def _quiet(self, connection: MemoryTransport) -> None:
        """Let the loop turn until nothing changes."""
        turns, before = 0, (-1, False, -1, -1, False)
        while turns < QUIET_TURNS:
            await asyncio.sleep(0)
            now = (
                len(connection.written),
                connection.closing,
                len(self._appender.events),
                len(self._rejections.noted),
                connection.paused,
            )
            turns = turns + 1 if now == before else 0
            before = now


def lasting(reply: bytes) -> bytes:
    """Responses without their dates and ids, the lines of their heads in order; and what is said of what is no HTTP."""
    return NO_HTTP.sub(b"[no HTTP]", HEAD.sub(_sorted_head, without_ids(reply)))


def _sorted_head(match: re.Match[bytes]) -> bytes:
    status, *lines = match[0].removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = sorted(line for line in lines if not line.startswith(b"Date: "))
    return b"\r\n".join([status, *kept, b"", b""])


@asynccontextmanager
async def in_memory(verification: dict[str, Any]) -> AsyncIterator[InMemory]:
    """Start a server in memory."""
    endpoints = {
        name: Endpoint(provider, Verifier(msgspec.convert(settings, Verification), read_secret))
        for name, provider in load_providers({}).items()
        for settings in [verification if name == "loopz" else {}]
    }
    appender, rejections = MemoryAppender(), MemoryRejections()
    receiver = Receiver(endpoints, cast("Any", appender), cast("Any", rejections), LIMITS)
    app = web.Application(middlewares=[receiver.middleware, problems])
    for route in deliveries.ROUTES:
        add_delivery_path(app.router, route.path)
    app.router.add_get("/v1/events", no_events)
    app.on_response_prepare.append(add_common_headers)
    app[CORS_ORIGINS] = frozenset()
    runner = make_runner(app, LIMITS)
    await runner.setup()
    server = cast("web.Server", runner.server)
    listening = connection_server(receiver, server, LIMITS, idle_seconds=60)
    yield InMemory(listening, appender, rejections)
    await runner.cleanup()
    await listening.close(1)


async def no_events(_: web.Request) -> web.Response:
    return web.json_response([])


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_PATH", PATH_SECRET)
    monkeypatch.setenv("FUZZ_HMAC", SECRET)
    # aiohttp alone waits for the rest of a body that is none.
    monkeypatch.setattr(HandedConnection, "_end_broken", lambda *_: None)
    # It parses at once what came of a body in chunks, so that a refusal does not find it incomplete.
    monkeypatch.setattr(handed, "CHUNKED_TURN", 10**9)
    # It has a traceback to say of every bad request.
    monkeypatch.setattr(logging.getLogger("aiohttp.server"), "disabled", True)


@pytest.mark.parametrize("name", VERIFICATIONS)
async def test_mutated_requests_have_the_same_answers_and_records_on_both_paths(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with in_memory(VERIFICATIONS[name]) as fast:
        monkeypatch.setattr(connections, "FAST_PATH_VERSIONS", frozenset())
        async with in_memory(VERIFICATIONS[name]) as plain:
            statuses: set[bytes] = set()
            for number in range(REQUESTS):
                pieces = request(random.Random(f"{SEED} {name} {number}"))
                seen = await fast.exchange(pieces)
                if seen != await plain.exchange(finely_cut(pieces)):
                    pieces = await smallest(fast, plain, pieces)
                    pytest.fail(
                        f"FUZZ_SEED={SEED}, request {number} of {name!r}, at its smallest:\n{pieces}\n"
                        f"fast path:     {await fast.exchange(pieces)}\n"
                        f"aiohttp alone: {await plain.exchange(finely_cut(pieces))}"
                    )
                statuses.update(re.findall(rb"HTTP/1.[01] (\d+)", seen.reply))
    # The requests are of all kinds: no status that the path of a delivery knows is missing.
    expected = {b"100", b"200", b"400", b"404", b"405", b"413", b"415", b"417", b"422", b"503"}
    if name == "open":
        assert expected <= statuses
    else:
        assert {b"200", b"400", b"401"} <= statuses


def finely_cut(pieces: list[Piece]) -> list[Piece]:
    """The same, cut wherever a request may end: behind heads and bodies, and before what looks like a request.

    aiohttp alone forgets requests if there is no HTTP behind them in the same piece, and what comes in the same piece
    behind an upgrade that it does not know. Our answers depend on no cut.
    """
    data = b"".join(piece.data for piece in pieces)
    waits = dict(
        zip(itertools.accumulate(len(piece.data) for piece in pieces), pieces, strict=True)
    )
    edges = {0, *waits, *(match.start() for match in re.finditer(rb"POST|GET ", data))}
    for match in re.finditer(rb"\r\n\r\n", data):
        edges |= {match.end() + size for size in BODY_ENDS if match.end() + size < len(data)}
    return [
        Piece(data[start:end], end in waits and waits[end].wait)
        for start, end in itertools.pairwise(sorted(edges))
    ]


async def smallest(fast: InMemory, plain: InMemory, pieces: list[Piece]) -> list[Piece]:
    """Leave out of a request what is not needed for the difference."""

    async def differs(candidate: list[Piece]) -> bool:
        alone = await plain.exchange(finely_cut(candidate))
        return await fast.exchange(candidate) != alone

    step = max(len(piece.data) for piece in pieces)
    while step:
        shorter = await _shorter(pieces, step, differs)
        if shorter is None:
            step //= 2
        else:
            pieces = shorter
    return pieces


async def _shorter(pieces: list[Piece], step: int, differs: Any) -> list[Piece] | None:  # noqa: ANN401 - as above
    for index, piece in enumerate(pieces):
        for begin in range(0, len(piece.data), step):
            data = piece.data[:begin] + piece.data[begin + step :]
            rest = [Piece(data, piece.wait)] if data else []
            candidate = [*pieces[:index], *rest, *pieces[index + 1 :]]
            if candidate and await differs(candidate):
                return candidate
    return None


@pytest.mark.parametrize("name", ["open", "hmac"])
async def test_mutated_requests_have_the_same_answers_and_records_on_postgres(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mutated = [request(random.Random(f"{SEED} {name} {n}")) for n in range(ON_POSTGRES)]
    with monkeypatch.context() as patch:
        patch.setattr(connections, "FAST_PATH_VERSIONS", frozenset())
        async with in_memory(VERIFICATIONS[name]) as plain:
            # See `finely_cut`.
            requests = [
                pieces
                for pieces in mutated
                for whole in [[Piece(b"".join(piece.data for piece in pieces), wait=True)]]
                if await plain.exchange(whole) == await plain.exchange(finely_cut(whole))
            ]
    with_fast_path = await over_tcp(cluster, VERIFICATIONS[name], requests)
    monkeypatch.setattr(connections, "FAST_PATH_VERSIONS", frozenset())
    without = await over_tcp(cluster, VERIFICATIONS[name], requests)
    for number, pieces in enumerate(requests):
        assert with_fast_path[0][number] == without[0][number], (SEED, name, number, pieces)
    assert with_fast_path[1:] == without[1:], (SEED, name)


async def over_tcp(
    cluster: Cluster, verification: dict[str, Any], requests: list[list[Piece]]
) -> tuple[list[bytes], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The replies, the log and the rejections of a server that got these requests whole, one after the other."""
    section = msgspec.convert({"verification": verification}, LoopzSettings)
    replies = []
    async with cluster.database() as dsn:
        settings = Settings(port=0, database_url=dsn, limits=LIMITS, providers={"loopz": section})
        async with running_alone(settings) as loopledger:
            port = int(loopledger.url.rsplit(":", 1)[1])
            for pieces in requests:
                # What the API says of events is new every time.
                data = b"".join(piece.data for piece in pieces).replace(b"/v1/events", b"/healthz")
                reply = await reply_to(port, data)
                replies.append(reply)
        connection = await asyncpg.connect(dsn)
        recorded = values(await connection.fetch(RECORDED))
        rejected = values(await connection.fetch(REJECTED))
        await connection.close()
    return replies, recorded, rejected


async def reply_to(port: int, data: bytes) -> bytes:
    """Send a request, and give back what comes until nothing does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    reply = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(65_536), 0.1 if reply else 1):
            reply += chunk
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return lasting(reply)


# What is on record, less what is new every time: event ids and times.
RECORDED = """
    SELECT position, provider, topic, merchant_id, program_id, stream, headers, body
    FROM events ORDER BY position
"""
REJECTED = """
    SELECT provider, cause, problem, address, headers, body, size, count
    FROM rejections ORDER BY digest
"""
