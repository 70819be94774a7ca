"""The head is checked before the body is read, and before anybody is told to send it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import aiohttp
import msgspec
import pytest

from providers import settings_types
from providers.loopz import Settings as LoopzSettings
from runtime.secrets import read_secret
from tests.conftest import StartLoopledger
from tests.support import Client, encoded, loopz_headers
from tests.support.sender import Sender, connected
from verification.signing import sign
from verification.verifier import Verification

BODY = encoded({"id": "l-1", "status": "ACTIVE"})

VERIFICATIONS: dict[str, dict[str, Any]] = {
    "path": {"path": [{"env": "HEAD_PATH"}]},
    "basic": {"basic": [{"user": "loopz", "password": {"env": "HEAD_SECRET"}}]},
    "hmac": {"hmac": {"header": "X-Signature", "secrets": [{"env": "HEAD_SECRET"}]}},
    "addresses": {"addresses": ["203.0.113.0/24"], "path": [{"env": "HEAD_PATH"}]},
}


class WithVerification(Protocol):
    """Start a Loopledger whose Loopz deliveries are verified so."""

    def __call__(self, name: str) -> AbstractAsyncContextManager[tuple[str, Client]]:
        """Start it; gives its URL and a client."""


@pytest.fixture(params=["fast path", "aiohttp alone"])
def verified(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> WithVerification:
    """With the fast path, and without it."""
    monkeypatch.setenv("HEAD_PATH", "a-path-secret-of-some-length")
    monkeypatch.setenv("HEAD_SECRET", "correct horse battery staple 42")
    if request.param == "aiohttp alone":
        monkeypatch.setattr(aiohttp, "__version__", "3.99.0")
        monkeypatch.setitem(sys.modules, "web.ingest.protocol", None)

    @asynccontextmanager
    async def start_one(name: str) -> AsyncIterator[tuple[str, Client]]:
        section = msgspec.convert({"verification": VERIFICATIONS[name]}, LoopzSettings)
        providers = {"loopz": section, "fitbank": settings_types()["fitbank"]()}
        async with (
            start(providers=providers) as loopledger,
            aiohttp.ClientSession(loopledger.url) as session,
        ):
            yield loopledger.url, Client(session)

    return start_one


def head(path: str, headers: dict[str, str], size: int = len(BODY)) -> bytes:
    """The head of a delivery."""
    named = {**loopz_headers("location.updated"), "Content-Length": str(size), **headers}
    lines = [f"{name}: {value}" for name, value in named.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def signed(name: str) -> tuple[str, dict[str, str]]:
    """Path and headers of a delivery that is in order."""
    settings = msgspec.convert(VERIFICATIONS[name], Verification)
    return sign(settings, read_secret, "loopz", BODY, datetime.now(UTC), "msg_1")


@pytest.mark.parametrize("lines", [{}, {"Expect": "100-continue"}])
@pytest.mark.parametrize("name", VERIFICATIONS)
async def test_a_stranger_is_refused_before_any_body_has_come(
    verified: WithVerification, name: str, lines: dict[str, str]
) -> None:
    path = signed(name)[0] if name == "addresses" else "/webhooks/loopz"
    async with verified(name) as (url, client), connected(url) as sender:
        answer = await sender.send(head(path, lines, size=1_000))
        assert answer.status == 401
        assert answer.headers["Connection"] == "close"
        assert answer.json["type"] == "urn:loopledger:problem:unverified"
        rejection = await only_rejection(client)
        retried = await client.request("POST", f"/v1/rejections/{rejection['id']}/retry")
        body = await client.get(f"/v1/rejections/{rejection['id']}/body")
    assert (rejection["cause"], rejection["size"]) == ("UNVERIFIED", 1_000)
    assert not rejection["complete"]
    assert body.body == b""
    assert (retried.status, "nobody's body is kept" in retried.json["detail"]) == (409, True)


async def test_a_stranger_s_limits_and_encodings_are_not_looked_at(
    verified: WithVerification,
) -> None:
    async with verified("basic") as (url, _):
        for lines, size in (({"Content-Encoding": "gzip"}, 9), ({}, 10**9), ({"Expect": "x"}, 9)):
            async with connected(url) as sender:
                assert (await sender.send(head("/webhooks/loopz", lines, size))).status == 401


@pytest.mark.parametrize("name", ["path", "basic", "hmac"])
async def test_who_is_known_is_told_to_send_the_body(verified: WithVerification, name: str) -> None:
    path, headers = signed(name)
    async with verified(name) as (url, _), connected(url) as sender:
        sender.writer.write(head(path, {**headers, "Expect": "100-continue"}))
        assert await told(sender) == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await sender.send(BODY)
        assert (answer.status, answer.json) == (200, {"position": 1})
        # The connection goes on.
        assert (await sender.send(head(path, headers) + BODY)).json == {"position": 2}


async def test_a_signature_is_checked_when_its_body_has_come(verified: WithVerification) -> None:
    path, headers = signed("hmac")
    async with verified("hmac") as (url, client), connected(url) as sender:
        sender.writer.write(head(path, headers))
        await asyncio.sleep(0.1)
        answer = await sender.send(BODY.upper())
        assert (answer.status, answer.headers.get("Connection")) == (401, None)
        rejection = await only_rejection(client)
    assert (rejection["size"], rejection["complete"]) == (len(BODY), False)


async def test_the_body_of_a_stranger_is_not_on_record_even_if_it_came_with_its_head(
    verified: WithVerification,
) -> None:
    async with verified("basic") as (url, client), connected(url) as sender:
        answer = await sender.send(head("/webhooks/loopz", {}) + BODY)
        assert (answer.status, answer.headers.get("Connection")) == (401, None)
        rejection = await only_rejection(client)
        kept = await client.get(f"/v1/rejections/{rejection['id']}/body")
    assert (rejection["size"], kept.body) == (len(BODY), b"")


async def told(sender: Sender) -> bytes:
    """What comes before the answer."""
    async with asyncio.timeout(5):
        return await sender.reader.readuntil(b"\r\n\r\n")


async def only_rejection(client: Client) -> Any:  # noqa: ANN401 - JSON
    """The one rejection on record, once it is written."""
    async with asyncio.timeout(5):
        while not (items := (await client.get("/v1/rejections")).json["items"]):  # noqa: ASYNC110 - it is a server
            await asyncio.sleep(0.05)
    (item,) = items
    return (await client.get(f"/v1/rejections/{item['id']}")).json
