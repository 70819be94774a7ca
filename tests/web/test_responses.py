"""What every response has, and requests that only just miss."""

import aiohttp
import pytest
from multidict import CIMultiDict

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.http import raw

# Whoever asked for an event may keep it, if they ask each time whether it still stands.
KEPT = "private, no-cache"
PATHS = {
    "/": "no-store",
    "/healthz": "no-store",
    "/readyz": "no-store",
    "/v1/gift-cards": "no-store",
    "/v1/events": KEPT,
    "/v1/events/1": KEPT,
    "/v1/events/1/body": KEPT,
    "/nope": "no-store",
    "/v1/events?x=1": "no-store",
}


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_is_to_keep_what_may_change_or_to_learn_what_is_inside(
    client: Client, path: str
) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    answer = await client.get(path)
    assert answer.headers["Cache-Control"] == PATHS[path]
    assert answer.headers["Server"] == "Loopledger"


@pytest.mark.parametrize("cut", [False, True], ids=["fast path", "aiohttp"])
async def test_an_acknowledgement_names_no_versions_either(
    client: Client,
    cut: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    headers = {"Expect": "100-continue"} if cut else {}
    answer = await client.loopz("location.updated", {"id": "l-1"}, headers=headers)
    assert (answer.status, answer.headers["Server"]) == (200, "Loopledger")


async def test_the_bare_address_says_what_this_is_and_what_can_be_asked(client: Client) -> None:
    found = (await client.get("/")).json
    assert (found["server"], found["documentation"]) == ("loopledger", "/docs")
    assert {"GET /v1/gift-cards", "GET /healthz", "POST /webhooks/{provider}"} <= set(
        found["paths"]
    )


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/gift-cards", "GET, HEAD, OPTIONS"),
        ("/v1/projections/gift_cards/rebuild", "GET, HEAD, OPTIONS, POST"),
        ("/webhooks/loopz", "OPTIONS, POST"),
        ("/", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_are_answered_with_what_is_allowed(
    client: Client, path: str, allow: str
) -> None:
    answer = await client.request("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"], answer.body) == (204, allow, b"")
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_options_are_answered_for_the_server_as_a_whole(client: Client) -> None:
    request = "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await raw(client, request.encode())
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"Allow: GET, HEAD, OPTIONS, POST\r\n" in answer


async def test_a_method_that_is_not_taken_is_still_refused(client: Client) -> None:
    answer = await client.request("DELETE", "/v1/gift-cards")
    assert answer.status == 405
    assert answer.json["detail"] == "/v1/gift-cards does not take DELETE; it takes GET, HEAD."
    assert (await client.request("OPTIONS", "/nope")).status == 404


async def test_a_path_that_is_not_there_is_told_where_the_others_are(client: Client) -> None:
    answer = await client.request("GET", "/v1/giftcards")
    assert (
        answer.json["detail"]
        == "There is no path /v1/giftcards here; GET / lists those that there are."
    )
    # What stands behind the provider may be a secret.
    answer = await client.request("POST", "/webhooks/loopz/of-secrets/none")
    assert "of-secrets" not in answer.body.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/locations",
        "/v1/locations?limit=1",
        "/healthz",
        "/v1/locations/a%2Fb/history",
        "/v1/events/1/body",
    ],
)
async def test_a_slash_at_the_end_makes_no_difference(client: Client, path: str) -> None:
    await client.loopz("location.updated", {"id": "a/b"})
    await client.get("/v1/locations?at_least=1")
    path, question, query = path.partition("?")
    plain = await client.request("GET", path + question + query)
    slashed = await client.request("GET", f"{path}/{question}{query}", allow_redirects=False)
    assert (slashed.status, slashed.body) == (plain.status, plain.body)
    assert plain.status == 200
    for method, status in (("HEAD", 200), ("OPTIONS", 204), ("DELETE", 405)):
        assert (await client.request(method, f"{path}/")).status == status


@pytest.mark.parametrize(
    "path", ["/nope/", "//example.com/", "//example.com/v1/gift-cards/", "/v1/", "/healthz//"]
)
async def test_a_slash_leads_to_nothing_that_is_not_there_nor_to_another_host(
    client: Client, path: str
) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await raw(client, request.encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Location" not in answer


async def test_a_provider_may_end_its_path_with_a_slash(client: Client) -> None:
    named = CIMultiDict({"X-LOOPZ-WEBHOOK-TOPIC": "location.updated", "X-LOOPZ-MERCHANT-ID": "m"})
    answer = await client.request("POST", "/webhooks/loopz/", data=b'{"id":"x"}', headers=named)
    assert answer.json == {"position": 1}


async def test_a_word_that_is_none_of_ours_is_an_error_and_not_an_empty_list(
    client: Client,
) -> None:
    answer = await client.get("/v1/transactions?phase=bogus")
    assert answer.status == 400
    assert answer.json["detail"].startswith(
        "The parameter phase must be authorized, canceled, created, "
    )
    assert answer.json["detail"].endswith("or unknown, not 'bogus'.")
    assert (await client.get("/v1/transactions?phase=settled&kind=purchase")).status == 200
    # A provider's own words are not ours to know.
    assert (await client.get("/v1/gift-cards?status=active")).json["items"] == []


async def test_who_waits_for_more_than_there_is_hears_how_far_the_log_reaches(
    start: StartLoopledger,
) -> None:
    limits = Limits(at_least_seconds=0.1, poll_seconds=0.05, pool_connections=5)
    async with (
        start(limits=limits) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        await client.loopz("location.updated", {"id": "l-1"})
        await client.get("/v1/locations?at_least=1")
        answer = await client.get("/v1/locations?at_least=50")
    assert (answer.status, answer.json["head"]) == (503, 1)
    assert answer.json["detail"].endswith("not yet up to 50; the newest event is 1.")
