"""Strangers in crowds: whatever they begin and leave, who is known gets through, and no process grows for it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import loopz_headers
from tests.support.sender import Sender, connected
from tests.support.server_process import ServerProcess
from tests.support.verified import BODY, VERIFICATIONS, WithVerification, signed


def head(path: str, headers: dict[str, str], *lines: str, size: int | None = len(BODY)) -> bytes:
    """The head of a delivery."""
    framing = ["Transfer-Encoding: chunked"] if size is None else [f"Content-Length: {size}"]
    named = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: localhost", *framing, *named, *lines, "", ""]
    ).encode()


UNVERIFIED = head("/webhooks/loopz", loopz_headers("location.updated"))


@asynccontextmanager
async def crowd(url: str, count: int, *, data: bytes = b"") -> AsyncIterator[list[Sender]]:
    """Open so many connections, and send the same on each."""
    async with AsyncExitStack() as stack:
        senders = []
        for _ in range(count):
            sender = await stack.enter_async_context(connected(url))
            sender.writer.write(data)
            senders.append(sender)
        yield senders


async def in_pieces(sender: Sender, request: bytes, body: bytes = BODY) -> int:
    """Send a delivery whose body comes later than its head; gives back its status."""
    sender.writer.write(request)
    await asyncio.sleep(0.02)
    return (await sender.send(body)).status


@asynccontextmanager
async def never_reading(url: str, data: bytes) -> AsyncIterator[socket.socket]:
    """A connection that sends as much as it can, and reads nothing."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(0)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    try:
        client.send(data)
        yield client
    finally:
        client.close()


async def test_who_does_not_read_gives_way(start: StartLoopledger) -> None:
    question = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with start(limits=Limits(connections=3)) as loopledger, AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(never_reading(loopledger.url, question * 2_000))
        await asyncio.sleep(3)
        for _ in range(3):
            async with connected(loopledger.url) as sender:
                assert (await sender.send(UNVERIFIED + BODY)).status == 200
            async with connected(loopledger.url) as sender:
                assert await in_pieces(sender, UNVERIFIED) == 200


@pytest.mark.parametrize("name", ["bearer", "hmac"])
async def test_bodies_that_are_announced_and_do_not_come_delay_no_delivery(
    verified: WithVerification, name: str
) -> None:
    path, headers = signed(VERIFICATIONS[name])
    well_formed = headers if name == "hmac" else {}
    limits = Limits(stranger_reading_bytes=20_000, reading_bytes=100_000)
    silent = head(path, well_formed, size=1024 * 1024)
    async with verified(VERIFICATIONS[name], limits=limits) as client:
        url = client.base_url
        async with crowd(url, 64, data=silent), connected(url) as whole, connected(url) as sender:
            for _ in range(3):
                assert (await whole.send(head(path, headers) + BODY)).status == 200
                assert await in_pieces(sender, head(path, headers)) == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_of_the_bodies_of_strangers_the_slowest_gives_way(
    start: StartLoopledger, *, chunked: bool
) -> None:
    headers = loopz_headers("location.updated")
    begun = head("/webhooks/loopz", headers, size=None if chunked else 9_000)
    begun += b"1f00\r\n" + b" " * 7_936 if chunked else b" " * 8_000
    async with (
        start(limits=Limits(stranger_reading_bytes=40_000)) as loopledger,
        crowd(loopledger.url, 4, data=begun) as senders,
    ):
        await asyncio.sleep(0.1)
        async with connected(loopledger.url) as sender:
            large = b'{"id": "l-1", "x": "' + b"." * 15_000 + b'"}'
            request = head("/webhooks/loopz", headers, size=len(large))
            assert await in_pieces(sender, request, large) == 200
        answers = [await sender.answer() for sender in senders[:1]]
        assert [(answer.status, answer.headers["Retry-After"]) for answer in answers] == [
            (503, "1")
        ]
        assert answers[0].json["type"] == "urn:loopledger:problem:crowded"
        # The others may go on.
        rest = b"\r\n0\r\n\r\n" if chunked else b"{}" * 500
        assert (await senders[3].send(rest)).status == 400


async def test_a_wrong_secret_has_no_body_read_whatever_it_announces(
    verified: WithVerification,
) -> None:
    async with verified(VERIFICATIONS["bearer"]) as client, connected(client.base_url) as sender:
        request = head("/webhooks/loopz", {}, "Expect: 100-continue", size=1024 * 1024)
        assert (await sender.send(request)).status == 401


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9_000, 431, "head-too-large"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 130, 431, "head-too-large"),
        (
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"x" * 999) * 17,
            431,
            "head-too-large",
        ),
        (b"GET /healthz HTTP/9\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01 TLS", 400, "malformed"),
        (head("/webhooks/loopz", {}, size=None) + b"zz\r\n", 400, "cut-short"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"no HTTP", 400, "malformed"),
    ],
)
async def test_what_is_no_request_is_answered_by_a_problem(
    start: StartLoopledger, data: bytes, status: int, slug: str
) -> None:
    async with start() as loopledger, connected(loopledger.url) as sender:
        answer = await sender.send(data)
        while answer.status == 200:
            answer = await sender.answer()
        assert (answer.status, answer.headers["Content-Type"]) == (
            status,
            "application/problem+json",
        )
        assert answer.json["type"] == f"urn:loopledger:problem:{slug}"
        assert await sender.closed()


async def test_of_heads_without_an_end_the_one_that_began_first_gives_way(
    start: StartLoopledger,
) -> None:
    begun = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 7_000
    async with (
        start(limits=Limits(unused_bytes=30_000)) as loopledger,
        crowd(loopledger.url, 5, data=begun) as senders,
    ):
        assert (await senders[0].answer()).status == 503
        assert (await senders[4].send(b"\r\n\r\n")).status == 200
        assert (await senders[3].send(b"\r\n\r\n")).status == 200


async def test_a_sender_that_is_known_does_not_give_way(verified: WithVerification) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    right = head(path, headers) + BODY
    async with verified(VERIFICATIONS["bearer"], limits=Limits(connections=5)) as client:
        url = client.base_url
        async with connected(url) as fast, connected(url) as slow:
            assert (await fast.send(right)).status == 200
            assert await in_pieces(slow, head(path, headers)) == 200
            async with crowd(url, 30, data=b"POST /webhooks/loopz HTTP/1.1\r\n") as strangers:
                await asyncio.sleep(0.1)
                assert (await strangers[0].answer()).status == 503
                assert (await fast.send(right)).status == 200
                assert await in_pieces(slow, head(path, headers)) == 200
                async with connected(url) as newcomer:
                    assert (await newcomer.send(right)).status == 200


async def test_one_address_has_so_many_connections_and_the_log_says_so(
    start: StartLoopledger,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            start(limits=Limits(address_connections=3, fresh_seconds=0.001)) as loopledger,
            crowd(loopledger.url, 3) as first,
        ):
            await asyncio.sleep(0.05)
            async with crowd(loopledger.url, 2) as last:
                assert [await sender.closed() for sender in first[:2]] == [True, True]
                assert (await last[1].send(UNVERIFIED + BODY)).status == 200
    warnings: list[Any] = [log for log in logs if log["event"] == "address_crowded"]
    assert len(warnings) == 1
    assert "trusted_proxies" in warnings[0]["message"]


async def test_an_address_of_a_provider_s_list_may_have_more(verified: WithVerification) -> None:
    listed = VERIFICATIONS["bearer"] | {"addresses": ["127.0.0.0/8"]}
    path, headers = signed(listed)
    delivery = head(path, headers) + BODY
    async with (
        verified(listed, limits=Limits(address_connections=1)) as client,
        crowd(client.base_url, 3, data=delivery) as senders,
    ):
        assert [(await sender.answer()).status for sender in senders] == [200] * 3


async def test_who_leaves_responses_unread_is_cut_off(start: StartLoopledger) -> None:
    limits = Limits(write_seconds=0.5)
    async with start(limits=limits) as loopledger:
        async with connected(loopledger.url) as sender:
            large = b'{"id": "l-1", "x": "' + b"." * 1_000_000 + b'"}'
            await in_pieces(
                sender,
                head("/webhooks/loopz", loopz_headers("location.updated"), size=len(large)),
                large,
            )
        question = b"GET /v1/events/1/body HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with never_reading(loopledger.url, question * 50) as client:
            await asyncio.sleep(2)
            assert await received(client) < 40_000_000


async def received(client: socket.socket) -> int:
    """How much comes until the connection ends."""
    size = 0
    try:
        while chunk := await asyncio.get_running_loop().sock_recv(client, 65_536):
            size += len(chunk)
    except ConnectionError:
        pass
    return size


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("Origin: https://evil.example", 403),
        ("Sec-Fetch-Site: cross-site", 403),
        ("Sec-Fetch-Site: none", 200),
        ("X-Note: a", 200),
    ],
)
async def test_a_page_of_another_site_cannot_write_to_a_log_that_verifies_nothing(
    start: StartLoopledger, line: str, status: int
) -> None:
    request = head("/webhooks/loopz", loopz_headers("location.updated"), line)
    async with start() as loopledger, connected(loopledger.url) as sender:
        assert (await sender.send(request + BODY)).status == status
        async with connected(loopledger.url) as other:
            assert await in_pieces(other, request) == status


@pytest.mark.parametrize(
    ("host", "status"),
    [("rebound.example:8080", 403), ("localhost:1", 200), ("[::1]:80", 200), ("localhost:8o", 403)],
)
async def test_a_name_that_a_page_has_rebound_is_refused(
    start: StartLoopledger, host: str, status: int
) -> None:
    request = UNVERIFIED.replace(b"Host: localhost", f"Host: {host}".encode())
    async with start() as loopledger, connected(loopledger.url) as sender:
        assert (await sender.send(request + BODY)).status == status


async def test_what_is_verified_may_come_by_any_name(verified: WithVerification) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    request = head(path, headers, "Origin: https://provider.example")
    async with verified(VERIFICATIONS["bearer"]) as client, connected(client.base_url) as sender:
        request = request.replace(b"Host: localhost", b"Host: hooks.example.com")
        assert (await sender.send(request + BODY)).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "X-LOOPZ-WEBHOOK-TOPIC",
        "X-LOOPZ-MERCHANT-ID",
        "X-LOOPZ-PROGRAM-ID",
        "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID",
    ],
)
async def test_a_header_that_decides_says_one_thing(start: StartLoopledger, name: str) -> None:
    headers = loopz_headers("location.updated")
    value = headers[name]
    async with start() as loopledger, connected(loopledger.url) as sender:
        for line, status in ((f"{name.lower()}: other", 400), (f"{name}: {value}", 200)):
            answer = await sender.send(head("/webhooks/loopz", headers, line) + BODY)
            assert answer.status == status
            if status == 400:
                assert f"the header {name} has several values" in answer.json["detail"]


def test_heads_without_an_end_do_not_grow_the_process(data_dir: Path) -> None:
    lines = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 8_000) for n in range(120))
    server = ServerProcess(data_dir)
    with ExitStack() as stack:
        stack.callback(server.stop)
        (worker,) = server.workers("http")
        before = psutil.Process(worker).memory_info().rss
        for _ in range(150):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.settimeout(5)
            with suppress(ConnectionError, TimeoutError):
                client.sendall(UNVERIFIED[:-2] + lines)
        assert server.deliver("l-1") == 1
        grown = psutil.Process(worker).memory_info().rss - before
    assert grown < 40 * 1024 * 1024


@pytest.mark.parametrize("chunks", [b"1\r\n \r\n" * 30_000, b"2bf20\r\n" + b"\r\n\r\n" * 45_000])
async def test_a_body_that_takes_long_to_parse_gives_others_their_turn(
    start: StartLoopledger, chunks: bytes
) -> None:
    headers = loopz_headers("location.updated")
    async with start() as loopledger, connected(loopledger.url) as slow:
        slow.writer.write(head("/webhooks/loopz", headers, size=None) + chunks + b"0\r\n\r\n")
        answer = asyncio.create_task(slow.answer())
        await asyncio.sleep(0)
        async with connected(loopledger.url) as sender:
            assert (await sender.send(UNVERIFIED + BODY)).status == 200
        assert not answer.done()
        assert (await answer).status == 400
