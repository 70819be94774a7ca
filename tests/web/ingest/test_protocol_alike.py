"""The fast path and aiohttp alike: a request in one piece, and the same cut in two, have the same answer and record."""

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest

from eventstore.limits import MIB, Limits
from providers import settings_types
from providers.loopz import Settings as LoopzSettings
from runtime.secrets import read_secret
from runtime.settings import Settings
from server import running_alone
from tests.conftest import Cluster
from tests.support import encoded, loopz_headers, values
from tests.support.http import without_ids
from verification.signing import sign
from verification.verifier import Verification
from web.ingest import protocol
from web.ingest.rate import RateLimiter
from web.ingest.receiver import Receiver

BODY = encoded({"id": "l-1", "status": "ACTIVE"})
PATH_SECRET = "a-path-secret-of-some-length"  # noqa: S105 - made up
HMAC_SECRET = "correct horse battery staple 42"  # noqa: S105 - made up

# What is on record, less what is new every time: event ids and times.
RECORDED = """
    SELECT position, provider, topic, merchant_id, program_id, stream, headers, body
    FROM events ORDER BY position
"""
REJECTED = """
    SELECT provider, cause, problem, address, headers, body, size, count
    FROM rejections ORDER BY digest
"""


class Case(NamedTuple):
    """A request. `fast`: whether it takes the fast path, when it comes in one piece."""

    data: bytes
    status: int
    fast: bool = True


def sent(
    *lines: str,
    body: bytes = BODY,
    start: str = "POST /webhooks/loopz HTTP/1.1",
    host: str = "Host: localhost",
    length: str | None = "Content-Length: {}",
    named: Mapping[str, str] | None = None,
) -> bytes:
    """A request, line by line; a line is in Latin-1, so that it may be any bytes."""
    named = loopz_headers("location.updated") if named is None else named
    framing = [] if length is None else [length.format(len(body))]
    pairs = [f"{name}: {value}" for name, value in named.items()]
    return "\r\n".join([start, host, *framing, *pairs, *lines, "", ""]).encode("latin-1") + body


def to(path: str, *lines: str, method: str = "POST", version: str = "HTTP/1.1") -> bytes:
    return sent(*lines, start=f"{method} {path} {version}")


def behind(length: str | None, *lines: str, body: bytes = BODY) -> Case:
    """A request whose framing is not to be trusted."""
    return Case(sent(*lines, length=length, body=body), 400, fast=False)


ANY: dict[str, Case] = {
    "a delivery": Case(sent(), 200),
    "FitBank's": Case(to("/webhooks/fitbank"), 400),
    # Bodies.
    "no body": Case(sent(body=b""), 400),
    "white space": Case(sent(body=b" \r\n\t"), 400),
    "no JSON": Case(sent(body=b'{"id": nope}'), 400),
    "bytes beyond UTF-8": Case(sent(body=b'{"id": "\xff"}'), 400),
    "an end of head in the body": Case(sent(body=b'{"id": "a",\r\n\r\n"b": 1}'), 200),
    "a request in the body": Case(sent(body=b'"' + sent() + b'"'), 400),
    "60 kB": Case(sent(body=encoded({"id": "l-1", "x": "." * 60_000})), 200),
    "1 MiB": Case(sent(body=b'{"id": "l", "x": "' + b"." * (MIB - 20) + b'"}'), 200, fast=False),
    "1 MiB and a byte": Case(sent(body=b"." * (MIB + 1)), 413, fast=False),
    # Lengths.
    "a length with blanks": Case(sent(length="Content-Length: \t{} "), 200),
    "a length in small letters": Case(sent(length="content-length:{}"), 200),
    "a length with zeros": Case(sent(length="Content-Length: 0{}"), 200, fast=False),
    "a length with a sign": behind("Content-Length: +{}"),
    "a list of lengths": behind("Content-Length: {0}, {0}"),
    "a length twice": behind("Content-Length: {0}\r\nContent-Length: {0}"),
    "two lengths": behind("Content-Length: {0}\r\nContent-Length: 3"),
    "a length behind a blank": behind("Content-Length : {}"),
    "a length beyond 64 bits": behind("Content-Length: 99999999999999999999"),
    "a length and chunks": behind("Content-Length: {}", "Transfer-Encoding: chunked"),
    "chunks and a length": behind("Transfer-Encoding: chunked\r\nContent-Length: {}"),
    "identity and a length": behind("Content-Length: {}", "Transfer-Encoding: identity"),
    "chunks": Case(
        sent(length="Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (33, BODY)),
        200,
        fast=False,
    ),
    "no length": Case(sent(length=None, body=b""), 400, fast=False),
    # Lines.
    "a folded line": behind("Content-Length: {}", "X: a\r\n b"),
    "a line feed alone": behind("Content-Length: {}\nX: y"),
    "a carriage return alone": behind("Content-Length: {}", "X: a\rb"),
    "a head that ends in line feeds": behind("Content-Length: {}\n\n"),
    "a NUL": behind("Content-Length: {}", "X: a\0b"),
    "a name beyond ASCII": behind("Content-Length: {}", "\xff: x"),
    "a value beyond ASCII": Case(sent("X-Note: \xff\xfe"), 200),
    "a value of nothing": Case(sent("X-Note:"), 200),
    "a value twice": Case(sent("X-Note: a", "x-note: b"), 200),
    "a topic twice": Case(sent("x-loopz-webhook-topic: gift-card.created"), 400),
    "a program twice": Case(sent("x-loopz-program-id: p-2"), 400),
    "the same merchant twice": Case(sent("x-loopz-merchant-id: m-1"), 200),
    "no topic": Case(sent(named=loopz_headers(None)), 400),
    "a merchant beyond ASCII": Case(sent(named=loopz_headers("location.updated", "\xff")), 400),
    "no host": Case(sent(host="X: y"), 400, fast=False),
    "two hosts": Case(sent("Host: y"), 400, fast=False),
    "a line of 9 kB": Case(sent(f"X: {'x' * 9_000}"), 431, fast=False),
    "credentials": Case(sent("Authorization: Bearer x", "Cookie: a", "X-My-Token: b"), 200),
    "a mark of ours": Case(sent("Loopledger-Rejection: 7"), 200),
    # What is asked of the connection.
    "to close": Case(sent("Connection: close"), 200),
    "to close after no JSON": Case(sent("Connection: close", body=b"{"), 400),
    "to keep alive": Case(sent("Connection: keep-alive"), 200),
    "to upgrade": Case(sent("Connection: upgrade", "Upgrade: h2c"), 200, fast=False),
    "a go-ahead": Case(sent("Expect: 100-continue"), 200, fast=False),
    "the unexpected": Case(sent("Expect: the-unexpected"), 417, fast=False),
    "gzip": Case(sent("Content-Encoding: gzip"), 415, fast=False),
    "identity": Case(sent("Content-Encoding: identity"), 200, fast=False),
    # Paths, methods, versions.
    "a slash at the end": Case(to("/webhooks/loopz/"), 200),
    "a secret nobody asked for": Case(to("/webhooks/loopz/location"), 200),
    "a path of four": Case(to("/webhooks/loopz/a/b"), 200),
    "a query": Case(to("/webhooks/loopz?a=/b#c"), 200),
    "a fragment": Case(to("/webhooks/loopz#/c"), 200),
    "a parameter of the path": Case(to("/webhooks/loopz;a"), 404),
    "an escaped slash": Case(to("/webhooks/loopz%2Fsecret"), 404),
    "an escaped name": Case(to("/webhooks/l%6Fopz"), 404),
    "an escaped door": Case(to("/%77ebhooks/loopz"), 405, fast=False),
    "an upper case": Case(to("/Webhooks/loopz"), 404, fast=False),
    "upwards": Case(to("/webhooks/../webhooks/loopz"), 404),
    "two slashes": Case(to("/webhooks//loopz"), 404),
    "nobody": Case(to("/webhooks/"), 404),
    "no door": Case(to("/webhooks"), 404, fast=False),
    "bytes beyond ASCII": Case(to("/webhooks/\xff"), 400, fast=False),
    "an absolute form": Case(to("http://x/webhooks/loopz"), 200, fast=False),
    "GET": Case(to("/webhooks/loopz", method="GET"), 405, fast=False),
    "HEAD": Case(to("/webhooks/loopz", method="HEAD"), 405, fast=False),
    "PUT": Case(to("/webhooks/loopz", method="PUT"), 405, fast=False),
    "small letters": Case(to("/webhooks/loopz", method="post"), 400, fast=False),
    "HTTP/1.0": Case(to("/webhooks/loopz", version="HTTP/1.0"), 200, fast=False),
    "HTTP/1.0, kept": Case(
        to("/webhooks/loopz", "Connection: keep-alive", version="HTTP/1.0"), 200, fast=False
    ),
    "HTTP/2.0": Case(to("/webhooks/loopz", version="HTTP/2.0"), 200, fast=False),
    "no version": Case(b"POST /webhooks/loopz\r\n\r\n", 400, fast=False),
}

SECRET_IN_PATH: dict[str, Case] = {
    "right": Case(to(f"/webhooks/loopz/{PATH_SECRET}"), 200),
    "right, with a query": Case(to(f"/webhooks/loopz/{PATH_SECRET}?a"), 200),
    "right, shown by a proxy": Case(to(f"/webhooks/loopz/{PATH_SECRET}", f"X: {PATH_SECRET}"), 200),
    "right, but for a slash": Case(to(f"/webhooks/loopz/{PATH_SECRET}/"), 200),
    "right, but escaped": Case(to(f"/webhooks/loopz/%61{PATH_SECRET[1:]}"), 401),
    "right, but in capitals": Case(to(f"/webhooks/loopz/{PATH_SECRET.upper()}"), 401),
    "empty": Case(to("/webhooks/loopz/"), 401),
    "missing": Case(to("/webhooks/loopz"), 401),
}

SIGNED: dict[str, Case] = {
    "right": Case(sent("X-Signature: {}"), 200),
    "right, in another case": Case(sent("x-signature: {}"), 200),
    "right, twice": Case(sent("X-Signature: {}", "X-Signature: {}"), 401),
    "right, but for the body": Case(sent("X-Signature: {}", body=BODY + b" "), 401),
    "wrong": Case(sent("X-Signature: " + "0" * 64), 401),
    "beyond ASCII": Case(sent("X-Signature: \xff"), 401),
    "missing": Case(sent(), 401),
}

FORWARDED: dict[str, Case] = {
    "allowed": Case(sent("X-Forwarded-For: 203.0.113.9"), 200),
    "allowed, behind others": Case(sent("X-Forwarded-For: 10.0.0.1, 203.0.113.9"), 200),
    "allowed, in two lines": Case(
        sent("X-Forwarded-For: 1.1.1.1", "x-forwarded-for: 203.0.113.9"), 200
    ),
    "allowed, with a port": Case(sent("X-Forwarded-For: 203.0.113.9:1234"), 200),
    "allowed, mapped": Case(sent("X-Forwarded-For: ::ffff:203.0.113.9"), 200),
    "allowed, of the other kind": Case(sent("X-Forwarded-For: [2001:db8::9]:1"), 200),
    "not allowed": Case(sent("X-Forwarded-For: 203.0.113.9, 198.51.100.1"), 401),
    "no address": Case(sent("X-Forwarded-For: unknown"), 401),
    "missing": Case(sent(), 401),
}

BOUNDED: dict[str, Case] = {
    "small": Case(sent(body=b'{"id": "1"}'), 200),
    "as large as can be": Case(sent(body=b'{"id": "12345"}' + b" " * 185), 503),
    "too large": Case(sent(body=b'{"id": "12345"}' + b" " * 186), 413, fast=False),
    "no JSON": Case(sent(body=b"{"), 400),
    "one too many": Case(sent(), 429),
    "two too many": Case(sent(body=b"{"), 429),
    "to nobody": Case(to("/webhooks/nobody"), 404),
    "to nobody, too often": Case(to("/webhooks/nobody"), 429),
}

SETUPS: dict[str, tuple[dict[str, Case], dict[str, Any], Limits]] = {
    "open": (ANY, {}, Limits()),
    "a secret in the path": (SECRET_IN_PATH, {"path": [{"env": "ALIKE_PATH"}]}, Limits()),
    "signatures": (
        SIGNED,
        {"hmac": {"header": "X-Signature", "secrets": [{"env": "ALIKE_HMAC"}]}},
        Limits(),
    ),
    "behind a proxy": (
        FORWARDED,
        {"addresses": ["203.0.113.0/24", "2001:db8::/32"], "trusted_proxies": 1},
        Limits(),
    ),
    "limits": (
        BOUNDED,
        {},
        Limits(
            body_bytes=200,
            queue_bytes=200,
            address_requests_at_once=4,
            address_requests_per_second=1,
            address_failures_at_once=1,
            address_failures_per_second=1,
        ),
    ),
}


class Seen(NamedTuple):
    """What came of requests: the answers, the log, the rejections; and which of them took the fast path."""

    answers: dict[str, bytes]
    recorded: list[tuple[Any, ...]]
    rejected: list[tuple[Any, ...]]
    fast: set[str]


class Watched:
    """Which way deliveries go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_fast_path = 0
        self.passed_on = asyncio.Event()
        submit, pass_on = Receiver.submit, protocol.DeliveryServer.pass_to_aiohttp

        def submitting(*arguments: Any) -> bool:  # noqa: ANN401 - as they come
            self.on_fast_path += 1
            return submit(*arguments)

        def passing_on(server: protocol.DeliveryServer, *arguments: Any) -> None:  # noqa: ANN401
            pass_on(server, *arguments)
            self.passed_on.set()

        monkeypatch.setattr(Receiver, "submit", submitting)
        monkeypatch.setattr(protocol.DeliveryServer, "pass_to_aiohttp", passing_on)


def settings_for(verification: dict[str, Any], limits: Limits, dsn: str) -> Settings:
    section = msgspec.convert({"verification": verification}, LoopzSettings)
    providers = {"loopz": section, "fitbank": settings_types()["fitbank"]()}
    return Settings(port=0, database_url=dsn, limits=limits, providers=providers)


async def exchange(port: int, pieces: list[bytes], watched: Watched) -> bytes:
    """Send a request in pieces, each when the one before was read; gives back all that comes until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        watched.passed_on.clear()
        for piece in pieces[:-1]:
            writer.write(piece)
            await watched.passed_on.wait()
        writer.write(pieces[-1])
        reply = b""
        head = b"HTTP/1.1 100 Continue"
        while head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
            reply += head
        if not pieces[0].startswith(b"HEAD") and (length := re.search(rb"Length: (\d+)", head)):
            reply += await reader.readexactly(int(length[1]))
        # Nothing comes after it.
        writer.write_eof()
        reply += await reader.read()
    writer.close()
    return reply


def like(reply: bytes) -> bytes:
    """An answer, its lines in order, without date and id. What aiohttp says of a bad head depends on how it was cut."""
    head, end, body = without_ids(reply).rpartition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    if any(line.startswith(b"Content-Type: text/plain") for line in lines):
        return status
    lasting = sorted(line for line in lines if not line.startswith(b"Date: "))
    return b"\r\n".join([status, *lasting]) + end + body


async def outcome(
    cluster: Cluster, setup: str, cut: Callable[[bytes], list[bytes]], watched: Watched
) -> Seen:
    """Send the requests of a setup, one after the other, each on a connection of its own."""
    cases, verification, limits = SETUPS[setup]
    answers, fast = {}, set[str]()
    async with cluster.database() as dsn:
        async with running_alone(settings_for(verification, limits, dsn)) as loopledger:
            port = int(loopledger.url.rsplit(":", 1)[1])
            for name, case in cases.items():
                before = watched.on_fast_path
                reply = await exchange(port, cut(completed(case.data, verification)), watched)
                assert f" {case.status} ".encode() in reply, (name, reply)
                answers[name] = like(reply)
                if watched.on_fast_path > before:
                    fast.add(name)
        # Once it has stopped, all rejections are written.
        connection = await asyncpg.connect(dsn)
        recorded = values(await connection.fetch(RECORDED))
        rejected = values(await connection.fetch(REJECTED))
        await connection.close()
    return Seen(answers, recorded, rejected, fast)


def completed(data: bytes, verification: dict[str, Any]) -> bytes:
    """The request, with its signature filled in."""
    if "hmac" not in verification:
        return data
    settings = msgspec.convert(verification, Verification)
    _, headers = sign(settings, read_secret, "loopz", BODY, datetime.now(UTC), "msg_1")
    return data.replace(b"{}", headers["X-Signature"].encode())


def whole(data: bytes) -> list[bytes]:
    return [data]


def cut_in_two(data: bytes) -> list[bytes]:
    return [data[:9], data[9:]]


@pytest.mark.parametrize("setup", list(SETUPS))
async def test_in_one_piece_and_in_two_a_request_has_the_same_answer_and_record(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    monkeypatch.setenv("ALIKE_PATH", PATH_SECRET)
    monkeypatch.setenv("ALIKE_HMAC", HMAC_SECRET)
    # Time stands still for who sends too much: how long to wait is the same in every run.
    admit = RateLimiter.admit
    monkeypatch.setattr(RateLimiter, "admit", lambda limiter, key, _: admit(limiter, key, 0.0))
    watched = Watched(monkeypatch)
    on_fast_path = await outcome(cluster, setup, whole, watched)
    by_aiohttp = await outcome(cluster, setup, cut_in_two, watched)
    assert by_aiohttp.fast == set()
    assert on_fast_path.fast == {name for name, case in SETUPS[setup][0].items() if case.fast}
    assert on_fast_path.answers == by_aiohttp.answers
    assert on_fast_path.recorded == by_aiohttp.recorded
    assert on_fast_path.rejected == by_aiohttp.rejected
