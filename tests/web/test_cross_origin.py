"""Pages of other sites: none may read anything, but those of the sites that the settings name."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from eventstore.errors import SettingsError
from runtime.settings import load_settings
from tests.conftest import StartLoopledger
from tests.support import Client

SITE = "https://dashboard.example"
ASKING = {"Origin": SITE, "Access-Control-Request-Method": "GET"}


@pytest.fixture
async def named(start: StartLoopledger) -> AsyncIterator[Client]:
    """A Loopledger whose settings name a site."""
    async with (
        start(cors_origins=(SITE,)) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        yield Client(session)


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_no_page_may_read_anything_unless_its_site_is_named(
    client: Client, method: str
) -> None:
    answer = await client.request(method, "/v1/events", headers=ASKING)
    assert [name for name in answer.headers if name.startswith("Access-Control-")] == []


async def test_a_page_of_a_site_that_is_named_may_read(named: Client) -> None:
    answer = await named.request("GET", "/v1/events", headers={"Origin": SITE})
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == SITE
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"]
    # What is wrong with a request is its page's to know, too.
    answer = await named.request("GET", "/v1/nope", headers={"Origin": SITE})
    assert answer.headers["Access-Control-Allow-Origin"] == SITE


async def test_a_browser_may_ask_first(named: Client) -> None:
    answer = await named.request("OPTIONS", "/v1/events", headers=ASKING)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "path"),
    [
        ("https://other.example", "/v1/events"),
        ("null", "/v1/events"),
        ("http://dashboard.example", "/v1/events"),
        (SITE, "/webhooks/loopz"),
    ],
)
async def test_no_other_page_may(named: Client, origin: str, path: str) -> None:
    answer = await named.request("OPTIONS", path, headers=ASKING | {"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "dashboard.example", "https://a.example/", "null"])
def test_only_a_site_can_be_named(origin: str) -> None:
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        load_settings({"LOOPLEDGER_CORS_ORIGINS": f'["{origin}"]'}, {})
