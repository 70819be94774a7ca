"""The id of a request: in its response, its problem and the log."""

import re
from typing import Any

import pytest
import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from eventstore.query.states import States
from tests.support import Client
from tests.support.http import raw

MADE = re.compile(r"[0-9a-f]{16}")


async def test_every_answer_of_the_api_has_an_id_of_its_own(client: Client) -> None:
    found = [(await client.get(path)).headers["X-Request-Id"] for path in ("/", "/v1/events") * 2]
    assert len(set(found)) == 4
    assert all(MADE.fullmatch(each) for each in found)


async def test_an_id_that_the_client_gives_is_kept_if_it_is_sane(client: Client) -> None:
    for given, kept in (("abc-123_.X", True), ("a b", False), ("x" * 65, False), ("ü", False)):
        answer = await client.request("GET", "/nope", headers={"X-Request-Id": given})
        found = answer.headers["X-Request-Id"]
        assert (found == given) is kept
        assert answer.json["request_id"] == found


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/gift-cards/nope HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: more\r\n\r\n", 417),
        (b"no HTTP at all\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + 20_000 * b"x", 431),
        (b"POST /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"POST /webhooks/nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{", 404),
        (b"GET /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ],
)
async def test_every_problem_names_the_request_whoever_finds_it(
    client: Client, request_: bytes, status: int
) -> None:
    head, _, body = (await raw(client, request_)).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"Content-Type: application/problem+json" in head
    (named,) = re.findall(rb"X-Request-Id: ([0-9a-f]{16})", head)
    assert b'"request_id":"%b"' % named in body


async def test_what_is_logged_of_a_request_names_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:  # noqa: ANN401 - takes anything
        structlog.get_logger().info("noticed")
        message = "nobody foresaw this"
        raise RuntimeError(message)

    monkeypatch.setattr(States, "page", fail)
    with capture_logs(processors=[merge_contextvars]) as logs:
        answer = await client.get("/v1/locations")
    assert answer.status == 500
    told = [(line["event"], line["request_id"]) for line in logs]
    events = ["noticed", "request_failed", "request_refused"]
    assert told == [(event, answer.json["request_id"]) for event in events]


async def test_the_log_never_holds_a_path_as_it_was_sent(client: Client) -> None:
    with capture_logs() as logs:
        await client.get("/v1/gift-cards/4111-1111")
        await client.get("/nope/4111-1111")
    assert [line["event"] for line in logs] == ["request_refused"] * 2
    assert [line["path"] for line in logs] == ["/v1/gift-cards/{id}", None]


async def test_the_next_request_of_a_connection_has_another_id(client: Client) -> None:
    with capture_logs(processors=[merge_contextvars]) as logs:
        for _ in range(2):
            await client.get("/nope")
    first, second = (line["request_id"] for line in logs)
    assert first != second
