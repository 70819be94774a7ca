"""Keys of different merchants: neither sees a thing of the other, in any route of the table."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.limits import Limits
from projections import load_projections
from tests.conftest import StartLoopledger
from tests.support import Answer, Client
from tests.support.keys import key_in
from web.app import make_routes
from web.route import Route

ROUTES = [route for route in make_routes(load_projections().values()) if route.handler is not None]
SHARED = [route for route in ROUTES if route.per_merchant]
WHOLE = [
    route for route in ROUTES if not route.per_merchant and route.scope not in {"health", "metrics"}
]

KINDS = ("gift-card", "transaction", "location")
IDS = ("a", "b")

# Seconds for which a live stream is read.
LIVE_SECONDS = 0.1

_NUMBERS = itertools.count(1)


class Step(NamedTuple):
    """A delivery: of the first or the second merchant, of what, and whether it can be folded."""

    merchant: int
    kind: str
    id: str
    event: str
    good: bool


STEPS = st.lists(
    st.builds(
        Step,
        merchant=st.integers(0, 1),
        kind=st.sampled_from(KINDS),
        id=st.sampled_from(IDS),
        event=st.sampled_from(["created", "updated", "deleted"]),
        good=st.sampled_from([True, True, True, False]),
    ),
    min_size=2,
    max_size=12,
)


def body_of(step: Step, mark: str) -> dict[str, Any]:
    """What is delivered: every text of it is the merchant's own, but the id."""
    body: dict[str, Any] = {"id": step.id, "status": mark}
    match step.kind:
        case "gift-card":
            body |= {"code": f"code-{mark}", "gan": f"gan-{mark}", "recipient": {"name": mark}}
            body["balance"] = {"amount": 5, "currencyCode": "EUR"} if step.good else mark
        case "transaction":
            body |= {"type": "REDEEM", "reference": mark}
            body["amount"] = {"amount": 1250, "currencyCode": "EUR"} if step.good else mark
        case _:
            body["name"] = mark if step.good else {"of": mark}
    return body


class World(NamedTuple):
    """What was delivered: the mark of each merchant, which is in all that is theirs, and positions."""

    marks: tuple[str, str]
    positions: dict[int, int]


async def deliver(client: Client, steps: list[Step]) -> World:
    """Deliver for two merchants that nobody knows yet."""
    number = next(_NUMBERS)
    marks = (f"xone{number}x", f"xtwo{number}x")
    positions: dict[int, int] = {}
    for step in steps:
        answer = await client.loopz(
            f"{step.kind}.{step.event}",
            body_of(step, marks[step.merchant]),
            merchant=marks[step.merchant],
        )
        positions[answer.json["position"]] = step.merchant
    for mark in marks:
        await client.loopz("location.created", b"no JSON", merchant=mark)
    for kind in KINDS:
        found = await client.get(f"/v1/{kind}s?at_least={max(positions)}&limit=1")
        assert found.status == 200
    return World(marks, positions)


def queries_of(route: Route, other: str, stream: str) -> list[str]:
    """The queries by which a route is asked: without any, and for what is another merchant's."""
    known = set(route.query.__struct_encode_fields__)
    about = {"merchant_id": other, "stream": quote(stream, safe="")}
    if "{id}" not in route.path:
        about["status"] = other
    return ["", *(f"?{name}={value}" for name, value in about.items() if name in known)]


def questions(route: Route, world: World, other: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths and options of the requests that a route is asked by, most of them about what is another's."""
    streams = [f"loopz/{other}/{kind}/{IDS[0]}" for kind in KINDS]
    values = {
        "{id}": [*IDS, "none"],
        "{position}": [str(position) for position in world.positions] + ["999999"],
        "{stream}": [quote(stream, safe="") for stream in streams],
        "{name}": list(load_projections()),
    }
    named = [name for name in values if name in route.path]
    queries = queries_of(route, other, streams[0])
    for chosen in itertools.product(*(values[name] for name in named)):
        path = route.path
        for name, value in zip(named, chosen, strict=True):
            path = path.replace(name, value)
        for query in queries:
            if route.body is not None:
                for field in route.body.__struct_encode_fields__:
                    yield path, {"json": {field: f"{field}-{other}"}}
            else:
                for accept in ("application/json", "text/csv", "application/x-ndjson"):
                    if accept != "application/json" and (named or route.live):
                        continue
                    yield f"{path}{query}", {"headers": {"Accept": accept}}


async def listen(client: Client, path: str) -> str:
    """What a live stream tells from the beginning on."""
    told = b""
    headers = {"Authorization": f"Bearer {client.key}"}
    url = f"{path}{'&' if '?' in path else '?'}after=0"
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(LIVE_SECONDS),
            client.session.get(url, headers=headers) as response,
        ):
            while True:
                told += await response.content.readany()
    return told.decode()


@pytest.fixture
async def client(start: StartLoopledger) -> AsyncIterator[Client]:
    """A Loopledger that takes as many requests as are made here."""
    limits = Limits(poll_seconds=0.05, pool_connections=5, find_misses_at_once=100_000)
    async with start(limits=limits) as server, aiohttp.ClientSession(server.url) as session:
        yield Client(session)


def shown(answer: Answer) -> str:
    """All that an answer says, in its head and its body."""
    return f"{answer.body.decode()} {dict(answer.headers)}"


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
async def test_neither_of_two_merchants_sees_anything_of_the_other(
    client: Client, dsn: str, steps: list[Step]
) -> None:
    world = await deliver(client, steps)
    for number, mark in enumerate(world.marks):
        other = world.marks[1 - number]
        key = await key_in(dsn, "read", "reveal", "raw", "find", merchants=[mark])
        theirs = Client(client.session, key)
        for route in SHARED:
            for path, options in questions(route, world, other):
                if route.live:
                    assert other not in await listen(theirs, path), path
                    continue
                answer = await theirs.request(route.method, path, **options)
                # What was asked for is repeated, but that is all.
                said = shown(answer)
                if answer.status in {200, 206}:
                    assert other not in said, (path, options)
                else:
                    assert answer.status in {400, 404, 406}, (path, answer.status, answer.body)
        for position, owner in world.positions.items():
            for path in (f"/v1/events/{position}", f"/v1/events/{position}/body"):
                answer = await theirs.get(path)
                assert answer.status == (200 if owner == number else 404), path
        # Nor is it told apart from what is not there at all.
        absent = [p for p, owner in world.positions.items() if owner != number]
        if absent:
            there = await theirs.get(f"/v1/events/{absent[0]}")
            nowhere = await theirs.get("/v1/events/999999")
            assert blank(there, str(absent[0])) == blank(nowhere, "999999")


def blank(answer: Answer, asked: str) -> Any:  # noqa: ANN401 - JSON
    """What an answer says, without what was asked for and what every answer has of its own."""
    body = json.loads(answer.body.decode().replace(asked, "?"))
    return {name: value for name, value in body.items() if name not in {"request_id", "instance"}}


async def test_what_concerns_the_whole_store_is_not_for_a_key_of_some_merchants(
    client: Client, dsn: str
) -> None:
    bound = Client(client.session, await key_in(dsn, "read", "raw", "find", merchants=["m-1"]))
    assert {route.path for route in WHOLE} >= {"/v1/projections", "/v1/keys", "/v1/rejections/{id}"}
    for route in WHOLE:
        path = route.path.replace("{id}", "1").replace("{name}", "locations")
        answer = await bound.request(route.method, path)
        assert (answer.status, answer.json["type"]) == (
            403,
            "urn:loopledger:problem:insufficient-scope",
        ), path


async def test_totals_and_ambiguities_count_ones_own_things_only(client: Client, dsn: str) -> None:
    for merchant in ("m-1", "m-2"):
        await client.loopz("location.updated", {"id": "same"}, merchant=merchant)
    assert (await client.get("/v1/locations/same?at_least=2")).status == 409
    bound = Client(client.session, await key_in(dsn, merchants=["m-1"]))
    found = await bound.get("/v1/locations/same")
    assert (found.status, found.json["merchant_id"]) == (200, "m-1")
    assert len((await bound.get("/v1/locations")).json["items"]) == 1
    both = Client(client.session, await key_in(dsn, merchants=["m-1", "m-2"]))
    assert (await both.get("/v1/locations/same")).status == 409
