"""Deliveries that mean harm, or come broken: on record byte for byte, or refused clearly."""

import asyncio
import gzip

import aiohttp
import pytest

from eventstore.limits import MIB, Limits
from tests.conftest import StartLoopledger
from tests.support import Client, loopz_headers
from tests.support.http import raw
from tests.support.verified import BODY, WithVerification

HOSTILE_BODIES = {
    "NUL escape": b'{"id": "\\u0000"}',
    "lone surrogate escape": b'{"id": "\\ud800"}',
    "lone surrogate in a value": b'{"id": "l-1", "name": "\\ud800"}',
    "lone surrogate in a key": b'{"\\ud800": 1e400, "id": "l-1"}',
    "invalid UTF-8": b'{"id": "\xff"}',
    "1e400": b'{"id": "l-1", "n": 1e400}',
    "NaN": b'{"id": "l-1", "n": NaN}',
    "byte order mark": b'\xef\xbb\xbf{"id": "l-1"}',
    "100,000 nested arrays": b'{"id": "l-1", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 open arrays": b"[" * 100_000,
    "duplicate keys": b'{"id": "a", "id": "b"}',
    "empty": b"",
    "white space": b" \r\n\t ",
    "1 MiB exactly": b'{"id": "l-1", "x": "' + b"." * (MIB - 22) + b'"}',
    "1 MiB and a byte": b'{"id": "l-1", "x": "' + b"." * (MIB - 21) + b'"}',
    "an id of 10 kB": b'{"id": "' + b"x" * 10_000 + b'"}',
    "an id with slashes": b'{"id": "../../a/b"}',
    "a huge integer": b'{"id": ' + b"9" * 10_000 + b"}",
    "control character": b'{"id": "a\x01b"}',
    "an array": b"[]",
    "a string": b'"x"',
    "gzip": gzip.compress(b"{}"),
}


@pytest.mark.parametrize("name", list(HOSTILE_BODIES))
async def test_a_hostile_body_is_on_record_byte_for_byte_or_refused_clearly(
    client: Client, name: str
) -> None:
    body = HOSTILE_BODIES[name]
    answer = await client.loopz("location.updated", body)
    if answer.status == 200:
        assert (await client.get("/v1/events/1/body")).body == body
        assert (await client.get("/v1/locations?at_least=1")).status == 200
    else:
        assert answer.status in {400, 413}
        assert answer.json["detail"]
        assert (await client.get("/v1/events")).json["items"] == []


HOSTILE_HEADERS = {
    "bytes beyond ASCII in a note": (b"X-Note: \xff\xfe", 200),
    "bytes beyond ASCII in the topic": (b"X-LOOPZ-WEBHOOK-TOPIC: \xff", 400),
    "bytes beyond ASCII in the tenant": (b"X-LOOPZ-MERCHANT-ID: \xff", 400),
    "a tenant of 8 kB": (b"X-LOOPZ-MERCHANT-ID: " + b"m" * 8_000, 400),
    "a tenant with slashes": (b"X-LOOPZ-MERCHANT-ID: a/b/../c", 200),
    "a tenant of separators": (b"X-LOOPZ-MERCHANT-ID: \xc2\x9e~", 400),
    "an unknown expectation": (b"Expect: the-unexpected", 417),
    "gzip": (b"Content-Encoding: gzip", 415),
    "gzip behind identity": (b"Content-Encoding: identity\r\nContent-Encoding: gzip", 415),
    "an encoding beyond ASCII": (b"Content-Encoding: \xff", 415),
    "an expectation beyond ASCII": (b"Expect: \xff", 417),
    "deflate": (b"Content-Encoding: deflate", 415),
    "a path secret nobody asked for": (b"X-Note: none", 200),
}


@pytest.mark.parametrize("name", list(HOSTILE_HEADERS))
async def test_a_hostile_header_is_taken_or_refused_clearly(client: Client, name: str) -> None:
    line, expected = HOSTILE_HEADERS[name]
    own, _, _ = line.partition(b":")
    lines = [
        f"{header}: {value}".encode()
        for header, value in loopz_headers("location.updated").items()
        if header.encode() != own
    ]
    request = b"\r\n".join(
        [
            b"POST /webhooks/loopz HTTP/1.1",
            b"Host: localhost",
            b"Content-Length: %d" % len(BODY),
            *lines,
            line,
            b"",
            BODY,
        ]
    )
    reply = await raw(client, request)
    assert int(reply.split(b" ")[1]) == expected


async def test_a_large_body_is_refused_before_it_is_sent(client: Client) -> None:
    request = (
        b"POST /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        b"Content-Length: 99999999\r\n\r\n"
    )
    reply = await raw(client, request)
    assert b" 413 " in reply
    assert b"100 Continue" not in reply


async def test_a_sender_that_asks_first_is_told_to_go_on(client: Client) -> None:
    host, port = client.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port.rstrip("/")))
    head = "".join(f"{k}: {v}\r\n" for k, v in loopz_headers("location.updated").items())
    writer.write(
        f"POST /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{head}"
        f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    )
    assert b"100 Continue" in await asyncio.wait_for(reader.readline(), 5)
    await reader.readline()
    writer.write(BODY)
    status = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()
    assert b" 200 " in status


async def test_a_body_cut_short_is_never_on_record(client: Client) -> None:
    host, port = client.base_url.removeprefix("http://").split(":")
    head = "".join(f"{k}: {v}\r\n" for k, v in loopz_headers("location.updated").items())
    for framing in ("Content-Length: 400", "Transfer-Encoding: chunked"):
        _, writer = await asyncio.open_connection(host, int(port.rstrip("/")))
        start = (
            f"POST /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\n{head}{framing}\r\n\r\n".encode()
        )
        writer.write(start + (BODY if "Length" in framing else b"%x\r\n%b\r\n" % (len(BODY), BODY)))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert (await client.get("/v1/events")).json["items"] == []


async def test_an_address_that_sends_too_much_is_told_to_wait(verified: WithVerification) -> None:
    limits = Limits(address_requests_at_once=3, address_requests_per_second=1)
    async with verified({}, limits=limits) as client:
        answers = [await client.loopz("location.updated", {"id": str(n)}) for n in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"] == "1"


async def test_a_queue_that_is_full_answers_at_once(start: StartLoopledger) -> None:
    async with (
        start(limits=Limits(queue_bytes=200)) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        answer = await Client(session).loopz("location.updated", {"id": "x" * 300})
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_bodies_that_come_slowly_cannot_fill_the_memory(start: StartLoopledger) -> None:
    async with (
        start(limits=Limits(stranger_reading_bytes=2_500, body_seconds=1)) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        request = (
            b"POST /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        )
        request += b" " * 999
        replies = await asyncio.gather(*(raw(client, request) for _ in range(5)))
    statuses = sorted(int(reply.split(b" ")[1]) for reply in replies)
    assert statuses == [408, 408, 503, 503, 503]
