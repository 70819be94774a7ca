"""Who may use the API: by a key, or without one on this machine until there is the first."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from structlog.testing import capture_logs

from eventstore.keys import make_key
from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.http import raw
from tests.support.keys import key_in, revoke_in


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def stranger(client: Client) -> Client:
    """Somebody on this machine without a key."""
    return Client(client.session, key="")


@pytest.fixture
async def ours(start: StartLoopledger) -> AsyncIterator[Client]:
    """The same, of a server that takes few requests."""
    limits = Limits(
        poll_seconds=0.05,
        pool_connections=5,
        key_requests_per_second=1,
        key_requests_at_once=3,
        key_failures_per_second=1,
        key_failures_at_once=3,
    )
    async with start(limits=limits) as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        yield Client(session, key="")


async def test_before_the_first_key_this_machine_reads_without_one(stranger: Client) -> None:
    assert (await stranger.get("/v1/events")).status == 200
    assert (await stranger.get("/metrics")).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "203.0.113.9"},
        {"CF-Connecting-IP": "203.0.113.9"},
        {"True-Client-IP": "203.0.113.9"},
        {"X-Amzn-Trace-Id": "Root=1-2"},
        {"X-Envoy-Internal": "true"},
        {"X-Request-Start": "t=1"},
        {"X-Anything-At-All": "1"},
        {"Proxy-Authorization": "Basic eDp5"},
        {"Authorization": "Basic eDp5"},
        {"Origin": "https://example.com"},
        {"Host": "example.com"},
        {"Host": "127.0.0.1.nip.io"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
async def test_a_proxy_or_a_web_page_is_not_this_machine(
    stranger: Client, headers: dict[str, str]
) -> None:
    answer = await stranger.request("GET", "/v1/events", headers=headers)
    assert (answer.status, answer.json["type"]) == (401, "urn:loopledger:problem:key-needed")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="loopledger"'
    assert (await stranger.request("GET", "/healthz", headers=headers)).status == 200
    assert (await stranger.request("GET", "/readyz", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        ("GET /v1/events HTTP/1.1", "localhost", b"200"),
        ("GET /v1/events HTTP/1.1", "127.0.0.1:8080", b"200"),
        ("GET /v1/events HTTP/1.1", "[::1]", b"200"),
        ("GET http://example.com/v1/events HTTP/1.1", "127.0.0.1", b"401"),
        ("GET http://127.0.0.1/v1/events HTTP/1.1", "example.com", b"401"),
        # As proxies speak that are set up with one line.
        ("GET /v1/events HTTP/1.0", "127.0.0.1", b"401"),
    ],
)
async def test_the_host_has_to_be_this_machine_wherever_it_stands(
    stranger: Client, line: str, host: str, status: bytes
) -> None:
    request = f"{line}\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert (await raw(stranger, request.encode())).split(b" ")[1] == status


async def test_a_browser_on_this_machine_may_read(stranger: Client) -> None:
    headers = {
        "Accept": "text/html,*/*;q=0.8",
        "Accept-Language": "de",
        "Sec-Fetch-Site": "none",
        "Sec-Fetch-Mode": "navigate",
        "Sec-CH-UA": '"Chromium"',
        "Upgrade-Insecure-Requests": "1",
        "Cookie": "of=another-port",
        "DNT": "1",
    }
    assert (await stranger.request("GET", "/v1/events", headers=headers)).status == 200


async def test_from_the_first_key_on_nothing_is_read_without_one(
    stranger: Client, dsn: str
) -> None:
    key = await key_in(dsn, "read")
    await asyncio.sleep(0.6)
    for path in ("/v1/events", "/v1/gift-cards", "/metrics"):
        assert (await stranger.get(path)).status == 401, path
    assert (await stranger.get("/healthz")).status == 200
    assert (await stranger.get("/readyz")).status == 200
    # A path that is mistyped is no secret, and no key would help.
    assert (await stranger.get("/v1/gift-crads")).status == 404
    assert (await stranger.request("GET", "/v1/events", headers=bearer(key))).status == 200
    # Wherever it comes from.
    from_afar = {**bearer(key), "X-Forwarded-For": "203.0.113.9", "Host": "loopledger.example"}
    assert (await stranger.request("GET", "/v1/events", headers=from_afar)).status == 200


async def test_that_keys_expired_or_were_revoked_opens_nothing(stranger: Client, dsn: str) -> None:
    key = await key_in(dsn, "read", expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    await asyncio.sleep(0.6)
    assert (await stranger.get("/v1/events")).status == 401
    answer = await stranger.request("GET", "/v1/events", headers=bearer(key))
    assert answer.status == 401
    assert answer.json["detail"] == "The key expired at 2026-01-01T00:00:00Z."


async def test_a_key_that_lacks_the_scope_is_told_which(stranger: Client, dsn: str) -> None:
    key = await key_in(dsn, "read")
    answer = await stranger.request(
        "POST", "/v1/projections/locations/rebuild", headers=bearer(key)
    )
    assert (answer.status, answer.json["scope"]) == (403, "operate")
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer realm="loopledger", error="insufficient_scope", scope="operate"'
    )


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (make_key(), 401),
        (make_key()[:-1] + "!", 401),
        ("llk_", 401),
        ("x" * 5_000, 401),
        ("", 400),
        ("two words", 400),
    ],
    ids=["unknown", "mistyped", "short", "long", "none", "two"],
)
async def test_a_wrong_key_is_refused_and_never_repeated(
    stranger: Client, given: str, status: int
) -> None:
    with capture_logs() as logged:
        answer = await stranger.request("GET", "/v1/events", headers=bearer(given))
    assert answer.status == status
    if status == 401:
        challenge = answer.headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="loopledger", error="invalid_token"')
    if len(given) > 8:
        assert given not in f"{answer.body!r} {answer.headers} {logged}"


async def test_two_keys_in_one_request_are_none(stranger: Client) -> None:
    request = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n" + 2 * "Authorization: Bearer x\r\n"
    assert b" 400 " in await raw(stranger, f"{request}Connection: close\r\n\r\n".encode())


async def test_one_key_may_ask_so_often_and_no_other_key_suffers_from_it(
    ours: Client, dsn: str
) -> None:
    busy, other = await key_in(dsn, "read"), await key_in(dsn, "read")
    answers = [await ours.request("GET", "/v1/events", headers=bearer(busy)) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"] == "1"
    assert (await ours.request("GET", "/v1/events", headers=bearer(other))).status == 200


async def test_whoever_tries_keys_is_slowed_down_and_no_good_key_suffers_from_it(
    ours: Client, dsn: str
) -> None:
    good = await key_in(dsn, "read")
    tried = [
        (await ours.request("GET", "/v1/events", headers=bearer(make_key()))).status
        for _ in range(5)
    ]
    assert tried == [401, 401, 401, 429, 429]
    assert (await ours.request("GET", "/v1/events", headers=bearer(good))).status == 200


async def test_a_key_shows_what_is_masked_only_if_it_is_for_that_and_the_log_says_who_asked(
    stranger: Client, dsn: str
) -> None:
    card = {"id": "c-1", "code": "ABCD-1234", "balance": {"amount": 5, "currencyCode": "EUR"}}
    await stranger.loopz("gift-card.created", card)
    masked = await key_in(dsn, "read", name="reports")
    revealing = await key_in(dsn, "read", "reveal", "raw", name="support")
    path = "/v1/gift-cards/c-1?at_least=1"
    with capture_logs() as logged:
        answer = await stranger.request("GET", path, headers=bearer(masked))
        assert answer.json["code"] == "****1234"
        assert [one for one in logged if one["event"] == "secrets_read"] == []
        answer = await stranger.request("GET", path, headers=bearer(revealing))
        assert answer.json["code"] == "ABCD-1234"
        answer = await stranger.request("GET", "/v1/events/1/body", headers=bearer(revealing))
        assert b"ABCD-1234" in answer.body
    reads = [one for one in logged if one["event"] == "secrets_read"]
    assert [(one["key"], one["path"]) for one in reads] == [
        ("support", "/v1/gift-cards/c-1"),
        ("support", "/v1/events/1/body"),
    ]
    assert revealing not in str(logged)


async def test_a_key_of_some_merchants_is_not_for_the_whole_store(
    stranger: Client, dsn: str
) -> None:
    key = await key_in(dsn, "read", merchants=["m-1"])
    for path in ("/v1/projections", "/v1/rejections", "/v1/failover"):
        answer = await stranger.request("GET", path, headers=bearer(key))
        assert (answer.status, answer.json["type"]) == (
            403,
            "urn:loopledger:problem:insufficient-scope",
        ), path


async def test_a_key_counts_until_it_expires(stranger: Client, dsn: str) -> None:
    key = await key_in(dsn, "read", expires_at=datetime.now(UTC) + timedelta(seconds=2))
    assert (await stranger.request("GET", "/v1/events", headers=bearer(key))).status == 200
    await asyncio.sleep(2.6)
    assert (await stranger.request("GET", "/v1/events", headers=bearer(key))).status == 401


async def test_a_live_stream_ends_when_its_key_is_revoked(stranger: Client, dsn: str) -> None:
    key = await key_in(dsn, "read")
    headers = bearer(key)
    async with stranger.session.get("/v1/events/stream", headers=headers) as response:
        assert response.status == 200
        await revoke_in(dsn)
        async with asyncio.timeout(3):
            await response.read()


async def test_a_live_stream_without_a_key_ends_with_the_first_key(
    stranger: Client, dsn: str
) -> None:
    async with stranger.session.get("/v1/events/stream") as response:
        assert response.status == 200
        await key_in(dsn, "read")
        async with asyncio.timeout(3):
            await response.read()


async def test_a_server_may_be_told_to_answer_without_keys_but_reveals_and_does_nothing(
    start: StartLoopledger, dsn: str
) -> None:
    card = {"id": "c-1", "code": "ABCD-1234", "balance": {"amount": 5, "currencyCode": "EUR"}}
    await key_in(dsn, "read")
    async with (
        start(answer_without_keys=True) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session, key="")
        await client.loopz("gift-card.created", card)
        from_afar = {"X-Forwarded-For": "203.0.113.9", "Host": "loopledger.example"}
        path = "/v1/gift-cards/c-1?at_least=1"
        answer = await client.request("GET", path, headers=from_afar)
        assert (answer.status, answer.json["code"]) == (200, "****1234")
        for method, path in (
            ("GET", "/v1/events/1/body"),
            ("GET", "/v1/keys"),
            ("POST", "/v1/projections/locations/rebuild"),
        ):
            assert (await client.request(method, path)).status == 401, path


async def test_without_a_key_this_machine_only_reads(stranger: Client) -> None:
    await stranger.loopz("location.updated", {"id": "l-1"})
    for method, path, scope in (
        ("GET", "/v1/events/1/body", "raw"),
        ("GET", "/v1/keys", "admin"),
        ("POST", "/v1/projections/locations/rebuild", "operate"),
    ):
        answer = await stranger.request(method, path)
        assert answer.status == 401, path
        assert answer.headers["WWW-Authenticate"] == f'Bearer realm="loopledger", scope="{scope}"'


async def test_a_key_in_the_wrong_place_is_not_repeated(client: Client) -> None:
    key = make_key()
    for path in (
        f"/v1/gift-cards/{key}",
        f"/v1/gift-cards?status={key}&limit={key}",
        f"/v1/gift-cards?cursor={key}",
        f"/v1/gift-cards?{key}=1",
        f"/{key}",
    ):
        answer = await client.get(path)
        assert answer.status in {400, 404}
        assert key not in answer.body.decode(), path


async def test_a_key_of_some_merchants_is_not_told_how_far_the_log_reaches(
    start: StartLoopledger, dsn: str
) -> None:
    key = await key_in(dsn, "read", merchants=["m-1"])
    limits = Limits(at_least_seconds=0.1, poll_seconds=0.05, pool_connections=5)
    async with (
        start(limits=limits) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        await Client(session).loopz("location.updated", {"id": "l-1"}, merchant="m-2")
        answer = await Client(session, key).get("/v1/locations?at_least=50")
    assert answer.status == 503
    assert not {"head", "checkpoint"} & set(answer.json)
    assert answer.json["detail"] == "locations has not yet folded up to 50."


async def test_a_key_counts_within_a_moment_wherever_it_was_made(
    stranger: Client, dsn: str
) -> None:
    assert (await stranger.get("/v1/events")).status == 200
    for _ in range(3):
        key = await key_in(dsn, "read")
        assert (await stranger.request("GET", "/v1/events", headers=bearer(key))).status == 200
