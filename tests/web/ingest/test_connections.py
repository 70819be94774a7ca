"""With an aiohttp that the fast path was not tested with, all works without it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
import structlog

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.sender import connected
from web.ingest.connections import FAST_PATH_VERSIONS


def test_the_fast_path_is_known_to_fit_the_aiohttp_that_is_installed() -> None:
    """After an update of aiohttp: if test_protocol_fuzz and the other tests pass, add the version."""
    assert aiohttp.__version__ in FAST_PATH_VERSIONS


@pytest.fixture
def unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aiohttp whose internals may be others: what the fast path imports is not there."""
    monkeypatch.setattr(aiohttp, "__version__", "3.99.0")
    monkeypatch.setitem(sys.modules, "web.ingest.protocol", None)


@pytest.fixture
async def plain(
    unknown_version: None,  # noqa: ARG001 - it comes first
    start: StartLoopledger,
) -> AsyncIterator[Client]:
    """A server without the fast path."""
    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        yield Client(session)


@pytest.mark.usefixtures("unknown_version")
async def test_an_unknown_version_is_warned_of_once(start: StartLoopledger) -> None:
    with structlog.testing.capture_logs() as logs:
        async with start():
            pass
    (warning,) = [log for log in logs if log["log_level"] == "warning"]
    assert warning["event"] == "fast_path_off"
    assert (warning["aiohttp"], warning["tested"]) == ("3.99.0", sorted(FAST_PATH_VERSIONS))


async def test_the_known_version_is_not_warned_of(start: StartLoopledger) -> None:
    with structlog.testing.capture_logs() as logs:
        async with start():
            pass
    assert not [log for log in logs if log["log_level"] == "warning"]


async def test_deliveries_and_reads_work_without_the_fast_path(plain: Client) -> None:
    assert (await plain.loopz("location.updated", {"id": "l-1", "name": "Here"})).status == 200
    assert (await plain.loopz("location.updated", b"{")).status == 400
    assert (await plain.request("POST", "/webhooks/nobody", data=b"{}")).status == 404
    assert (await plain.request("GET", "/webhooks/loopz")).status == 405
    assert (await plain.request("GET", "/v1/nothing")).status == 404
    state = await plain.get("/v1/locations/l-1?merchant_id=m-1&at_least=1")
    assert (state.status, state.json["name"]) == (200, "Here")
    assert len((await plain.get("/v1/events")).json["items"]) == 1


@pytest.mark.usefixtures("unknown_version")
async def test_without_the_fast_path_who_was_silent_longest_gives_way_too(
    start: StartLoopledger,
) -> None:
    question = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with start(limits=Limits(connections=2)) as loopledger, AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(connected(loopledger.url)) for _ in range(3)]
        assert await senders[0].closed()
        assert [(await sender.send(question)).status for sender in senders[1:]] == [200, 200]


@pytest.mark.usefixtures("unknown_version")
@pytest.mark.parametrize("lines", [120, 0])
async def test_without_the_fast_path_a_head_is_limited_too(
    start: StartLoopledger, lines: int
) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: %b\r\n" % (b"x" * 150) * lines
    async with (
        start(limits=Limits(head_seconds=0.5)) as loopledger,
        connected(loopledger.url) as sender,
    ):
        answer = await sender.send(head)
        assert (answer.status, answer.headers["Connection"]) == (431 if lines else 408, "close")
        assert await sender.closed()
