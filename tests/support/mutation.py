"""Requests that nobody would write: deliveries mutated at random, from a seed."""

import hmac
import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.support import encoded, loopz_headers

SECRET = "correct horse battery staple 42"  # noqa: S105 - made up
PATH_SECRET = "a-path-secret-of-some-length"  # noqa: S105 - made up

BODIES = [
    encoded({"id": "l-1", "status": "ACTIVE"}),
    encoded({"id": "l-1", "x": "." * 3_000}),
    b"",
    b"{",
    b'{"id": "\xff"}',
    b'{"id": "a",\r\n\r\n"b": 1}',
    b'{"id": "REFUSED"}',
    b'{"id": "UNAVAILABLE"}',
    b'{"id": "FULL"}',
]
METHODS = [b"GET", b"HEAD", b"PUT", b"OPTIONS", b"post", b"PO ST", b"P\0ST", b"POSTPOST", b""]
PATHS = [
    b"/webhooks/loopz",
    b"/webhooks/loopz/",
    b"/webhooks/loopz/" + PATH_SECRET.encode(),
    b"/webhooks/loopz/" + PATH_SECRET.encode() + b"?a=/b#c",
    b"/webhooks/loopz/a/b",
    b"/webhooks/fitbank",
    b"/webhooks/nobody",
    b"/webhooks/",
    b"/webhooks",
    b"/webhooks//loopz",
    b"/webhooks/loopz%2Fa",
    b"/%77ebhooks/loopz",
    b"/webhooks/../webhooks/loopz",
    b"/webhooks/loop\xff",
    b"http://x/webhooks/loopz",
    b"*",
    b"/v1/events",
]
VERSIONS = [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b""]
LINES = [
    b"Expect: 100-continue",
    b"expect: 100-CONTINUE",
    b"Expect: the-unexpected",
    b"Content-Encoding: gzip",
    b"content-encoding: identity",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"content-length: 0",
    b"Host: other",
    b"X-Forwarded-For: 203.0.113.9",
    b"X-Forwarded-For: 198.51.100.1",
    b"Authorization: Bearer x",
    b"Cookie: a",
    b"X-LOOPZ-WEBHOOK-TOPIC: gift-card.created",
    b"X-LOOPZ-MERCHANT-ID: \xff",
    b"X-Long: " + b"x" * 9_000,
    b"X-Folded: a\r\n b",
    b"X-Nothing:",
    b"X Blank: a",
    b": nameless",
    b"Loopledger-Rejection: 7",
]
LENGTHS = [
    "{}",
    "0{}",
    "+{}",
    "-{}",
    "{} ",
    "\t{}",
    "{0}, {0}",
    "{}x",
    "0x{}",
    "9" * 20,
    "",
    "1",
    "0",
]
BYTES = [b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\xff", b"\x80", b"/", b"0"]
QUESTION = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Piece(NamedTuple):
    """Bytes that are sent at once; `wait`: until nothing more comes of them."""

    data: bytes
    wait: bool


def request(chance: random.Random) -> list[Piece]:
    """A request, or several; mutated in a few ways or in none; whole or cut."""
    data = _delivery(chance)
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        data += chance.choice([_delivery(chance), QUESTION])
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        data = chance.choice(_MUTATIONS)(chance, data)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 0, 0, 1, 2])))
    edges = [0, *cuts, len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    return [Piece(part, chance.random() < 0.7) for part in parts]


def _delivery(chance: random.Random) -> bytes:
    """A delivery, line by line: most of them in order, the others wrong in one way or another."""
    body = BODIES[0] if chance.random() < 0.5 else chance.choice(BODIES)
    framing = [f"Content-Length: {len(body)}".encode()]
    sent = body
    match chance.randrange(12):
        case 0:
            framing = [f"Content-Length: {chance.choice(LENGTHS).format(len(body))}".encode()]
        case 1:
            framing = [f"content-length:{len(body) + chance.choice([-1, 1, 7])}".encode()]
        case 2:
            framing, sent = [b"Transfer-Encoding: chunked"], _chunked(chance, body)
        case 3:
            framing = []
    headers = loopz_headers("location.updated")
    lines = [b"Host: localhost", *(f"{name}: {value}".encode() for name, value in headers.items())]
    if chance.random() < 0.7:
        lines.append(b"X-Signature: " + hmac.digest(SECRET.encode(), body, "sha256").hex().encode())
    if chance.random() < 0.5:
        lines.append(b"X-Forwarded-For: 203.0.113.9")
    lines += framing
    for _ in range(chance.choice([0, 0, 1, 2])):
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(LINES))
    if chance.random() < 0.2:
        chance.shuffle(lines)
    method = chance.choice(METHODS) if chance.random() < 0.08 else b"POST"
    version = chance.choice(VERSIONS) if chance.random() < 0.08 else b"HTTP/1.1"
    path = chance.choice(PATHS) if chance.random() < 0.4 else chance.choice(PATHS[:3])
    start = b" ".join([method, path, version])
    return b"\r\n".join([start, *lines, b"", b""]) + sent


def _chunked(chance: random.Random, body: bytes) -> bytes:
    """The body in chunks, of which one size may be wrong."""
    size = chance.choice([1, 5, 1_000])
    parts = [body[n : n + size] for n in range(0, len(body), size)] + [b""]
    wrong = chance.randrange(len(parts)) if chance.random() < 0.3 else -1
    return b"".join(
        b"%x\r\n%b\r\n" % (len(part) + (n == wrong), part) for n, part in enumerate(parts)
    )


def _flip(chance: random.Random, data: bytes) -> bytes:
    at = _somewhere(chance, data)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _insert(chance: random.Random, data: bytes) -> bytes:
    at = _somewhere(chance, data)
    return data[:at] + chance.choice(BYTES) + data[at:]


def _remove(chance: random.Random, data: bytes) -> bytes:
    at = _somewhere(chance, data)
    return data[:at] + data[at + chance.choice([1, 1, 2, 20]) :]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    at = _somewhere(chance, data)
    end = at + chance.choice([1, 2, 20, 200])
    return data[:end] + data[at:]


def _truncate(chance: random.Random, data: bytes) -> bytes:
    return data[: _somewhere(chance, data) + 1]


def _lines(change: Callable[[random.Random, list[bytes]], Sequence[bytes]]) -> "_Mutation":
    def mutate(chance: random.Random, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        return b"\r\n".join(change(chance, lines)) + end + rest

    return mutate


def _swap(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def _duplicate(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return lines


def _drop(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    del lines[chance.randrange(len(lines))]
    return lines


def _other_case(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    at = chance.randrange(len(lines))
    lines[at] = lines[at].swapcase()
    return lines


def _somewhere(chance: random.Random, data: bytes) -> int:
    """A place in the data, in the head more often than in a long body."""
    return chance.randrange(max(1, min(len(data), chance.choice([60, 400, 100_000]))))


_Mutation = Callable[[random.Random, bytes], bytes]
_MUTATIONS: list[_Mutation] = [
    _flip,
    _insert,
    _remove,
    _repeat,
    _truncate,
    *map(_lines, [_swap, _duplicate, _drop, _other_case]),
]
