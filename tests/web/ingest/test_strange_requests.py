"""Whatever a stranger sends gets a 4xx or its plain answer: never a 500, never a traceback in the log."""

import asyncio
import logging
from collections.abc import Iterator
from itertools import islice

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from structlog.testing import capture_logs

from tests.support import Client
from tests.support.verified import VERIFICATIONS, WithVerification

TARGETS = (
    b"http://a",
    b"http://a:99999/webhooks/loopz",
    b"http://a:8o/webhooks/loopz",
    b"http://[::1/webhooks/loopz",
    b"http://[zz]/v1/events",
    b"http:///webhooks/loopz",
    b"http://",
    b"https://a/webhooks/loopz",
    b"//a:8o/webhooks/loopz",
    b"//[/webhooks/loopz",
    b"a",
    b"*",
    b"?",
    b"/",
    b"/%",
    b"/%zz",
    b"/%00",
    b"/%ff%fe",
    b"/%ed%a0%80",
    b"/\xed\xa0\x80",
    b"/\xff",
    b"/webhooks/",
    b"/webhooks/loopz/",
    b"/webhooks/loopz/%",
    b"/webhooks/loopz/%zz%00",
    b"/webhooks/loopz/%ed%a0%80",
    b"/webhooks/loopz/\xed\xa0\x80",
    b"/webhooks/loopz/\xff\xfe",
    b"/webhooks/%ff/%fe",
    b"/webhooks/\xff",
    b"/webhooks/loopz?%",
    b"/webhooks/loopz#\xff",
    b"/webhooks/loopz/a?\xff=\xed\xa0\x80",
    b"/webhooks/" + b"l" * 5_000,
    b"/webhooks/loopz/" + b"%25" * 1_000,
    b"/v1/events?limit=%",
    b"/v1/events?limit=" + b"9" * 5_000,
    b"/v1/events?limit=\xff",
    b"/v1/events?cursor=%00",
    b"/v1/events?cursor=%ed%a0%80",
    b"/v1/events?cursor=1e400",
    b"/v1/events?=&&=&;=%",
    b"/v1/events?" + b"&" * 3_000,
    b"/v1/events/" + b"9" * 4_999,
    b"/v1/events/-1",
    b"/v1/events/%00",
    b"/v1/events/\xd9\xa1",
    b"/v1/locations?status=%00",
    b"/v1/locations?status=%ff",
    b"/v1/locations?sort=%ed%a0%80",
    b"/v1/locations/%00",
    b"/v1/locations/%ff",
    b"/v1/locations/%ed%a0%80",
    b"/v1/locations/%2f%2e%2e",
    b"/v1/locations/a/history?limit=%00",
    b"/v1/gift-cards?cursor=%00",
    b"/v1/gift-cards?cursor=AAAA",
    b"/v1/gift-cards?merchant_id=%00",
    b"/v1/gift-cards?at_least=" + b"9" * 30,
    b"/v1/transactions?kind=%00",
    b"/v1/rejections?cursor=" + b"9" * 30,
    b"/v1/rejections/" + b"9" * 30,
    b"/v1/rejections/1/retry",
    b"/v1/projections/%00/rebuild",
    b"/v1/projections/%ff/diff",
    b"/v1/projections/%ed%a0%80/rebuild",
    b"/v1/quarantine/%00",
    b"/v1/%zz/",
    b"/v1/%ed%a0%80/?%",
    b"/\xff/",
    b"//%00/",
    b"http://a/v1/events/",
    b"/healthz?%",
    b"/metrics?%00",
    b"/readyz",
)

LINES = (
    b"Host: localhost:8o",
    b"Host: localhost:99999",
    b"Host: [::1",
    b"Host: [zz]",
    b"Host: \xff\xfe",
    b"Host: ",
    b"Host: a b",
    b"Host: a/b?c#d",
    b"Host: @:",
    b"Host: xn--a",
    b"Host: " + b"a" * 300,
    b"Content-Length: " + b"9" * 5_000,
    b"Content-Length: " + b"9" * 25,
    b"Content-Length: +2",
    b"Content-Length: \xd9\xa1",
    b"Content-Length: -1",
    b"Content-Length: 0x2",
    b"Content-Length: 2, 2",
    b"Content-Type: application/json; charset=\xff",
    b"Content-Type: application/json; charset=no-such; charset=utf-16",
    b"Content-Type: \x80;=;;",
    b"Content-Type: multipart/form-data; boundary=",
    b"Content-Encoding: \xff",
    b"Expect: \xff",
    b"Expect: 100-continue\r\nExpect: x",
    b'Cookie: \xff=\xff; =; a="\\777"; $Version=1; a\x80=b',
    b"Cookie: " + b"a=b; " * 1_000,
    b'Forwarded: for="[::1";by=\xff,,=;for="_x',
    b'Forwarded: for="' + b"\\" * 3_000,
    b"X-Forwarded-For: \xff, , [::1, 1.2.3.4:99999, %",
    b"X-Forwarded-For: " + b"," * 3_000,
    b"X-Forwarded-Host: [",
    b"X-Forwarded-Proto: \xff",
    b"Origin: http://[",
    b"Origin: \xff",
    b"Sec-Fetch-Site: \xff",
    b"Authorization: Basic \xff",
    b"Authorization: Basic " + b"=" * 100,
    b"Authorization: Basic ////",
    b"Authorization: \xed\xa0\x80",
    b"Range: bytes=-",
    b"If-Modified-Since: Thu, 99 Foo 99999 99:99:99 GMT",
    b"If-None-Match: \xff",
    b"Accept: \xff;q=x",
    b"Accept-Encoding: \xff",
    b"Date: \xff",
    b"Upgrade: websocket\r\nConnection: upgrade",
    b"Upgrade: h2c\r\nConnection: upgrade, \xff",
    b"Transfer-Encoding: chunked, \xff",
    b"Connection: \xff",
    b"X-LOOPZ-WEBHOOK-TOPIC: \xed\xa0\x80",
    b"X-LOOPZ-MERCHANT-ID: \xff",
    b"X-LOOPZ-PROGRAM-ID: " + b"p" * 5_000,
    b"X-Request-Id: " + b"r" * 8_100,
    b"X-Signature: \xff",
    b"X-Signature: " + b"a" * 5_000,
    b"webhook-signature: v1,\xff v1a, ,",
)

METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PUT", b"FOO", b"QUERY")

GOOD = b"X-LOOPZ-WEBHOOK-TOPIC: location.updated\r\nX-LOOPZ-MERCHANT-ID: m\r\n"


def requests() -> Iterator[bytes]:
    for target in TARGETS:
        for method in METHODS:
            yield b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}" % (
                method,
                target,
            )
    paths = (
        b"POST /webhooks/loopz",
        b"POST /webhooks/loopz/a",
        b"GET /v1/events",
        b"POST /v1/rejections/1/retry",
        b"GET /nowhere",
    )
    for line in LINES:
        for path in paths:
            host = b"" if line.startswith(b"Host") else b"Host: localhost\r\n"
            length = (
                b"" if line.startswith((b"Content-L", b"Transfer")) else b"Content-Length: 2\r\n"
            )
            for body in (b"{}", b'{"id":"\\ud800"}'):
                length = length.replace(b"2", b"%d" % len(body)) if length else b""
                yield b"%b HTTP/1.1\r\n%b%b%b%b\r\n\r\n%b" % (path, host, length, GOOD, line, body)


async def answer(client: Client, request: bytes) -> bytes:
    """What comes back first; nothing if the server waits for more."""
    host, port = client.base_url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(1):
            return await reader.read(4096)
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("name", ["none", "hmac and path", "basic"])
async def test_nothing_a_stranger_sends_gets_a_500_or_a_traceback(
    verified: WithVerification, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[object] = []
    with capture_logs() as logged, caplog.at_level(logging.WARNING):
        async with verified(VERIFICATIONS.get(name, {})) as client:
            for some in batched(requests(), 50):
                replies = await asyncio.gather(*(answer(client, request) for request in some))
                for request, reply in zip(some, replies, strict=True):
                    if reply[9:12] in {b"500", b"501"}:
                        found.append((request, reply))
    found += [line for line in logged if line["log_level"] in {"error", "critical"}]
    found += [
        record.getMessage()
        for record in caplog.records
        # These are left out of the log (runtime/logging.py).
        if record.exc_info and not isinstance(record.exc_info[1], HttpProcessingError)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/events HTTP/1.1\r\nHost: localhost:8o\r\n\r\n", b"400"),
        (b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n", b"417"),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\n\r\n", b"417"),
        (b"GET /v1/gift-cards?cursor=AAAA HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    ],
)
async def test_what_cannot_be_read_is_a_problem_that_says_so(
    client: Client, request_: bytes, status: bytes
) -> None:
    reply = await answer(client, request_)
    assert reply[9:12] == status
    assert b"application/problem+json" in reply


def batched(items: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while some := list(islice(items, size)):
        yield some
