"""The table of routes: complete, and true of what the server answers."""

import asyncio
import re
from collections.abc import Iterator
from string import Formatter
from typing import Any, get_origin

import aiohttp
import msgspec
import pytest
from msgspec import inspect

from eventstore.fold.status import Rebuild
from projections import load_projections
from providers import settings_types
from providers.loopz import Settings as LoopzSettings
from tests.conftest import StartLoopledger
from tests.support import Client
from web.app import make_routes
from web.formats import Negotiated
from web.problems import PROBLEM_TYPES
from web.route import Route

ROUTES = [route for route in make_routes(load_projections().values()) if route.documented]
API = [route for route in ROUTES if route.handler is not None]

KINDS = ("gift-cards", "transactions", "locations")

# What stands in the place of a path's parameters.
EXAMPLES = {"{name}": "gift_cards", "{position}": "2"}


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def structs_in(type_: inspect.Type) -> Iterator[inspect.StructType]:
    """Every Struct that a type is made of."""
    if isinstance(type_, inspect.StructType):
        yield type_
        for field in type_.fields:
            yield from structs_in(field.type)
    for name in ("type", "item_type", "value_type"):
        if (inner := getattr(type_, name, None)) is not None:
            yield from structs_in(inner)
    for inner in getattr(type_, "types", ()):
        yield from structs_in(inner)


def undescribed(struct: inspect.StructType) -> Iterator[str]:
    """The fields of a Struct that have no description and that no docstring names."""
    cls = get_origin(struct.cls) or struct.cls
    docstrings = " ".join(each.__doc__ or "" for each in cls.__mro__)
    for field in struct.fields:
        described = isinstance(field.type, inspect.Metadata) and field.type.extra_json_schema
        if not described and f"`{field.encode_name}`" not in docstrings:
            yield f"{cls.__name__}.{field.encode_name}"


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_a_route_says_what_it_answers_and_what_can_go_wrong(route: Route) -> None:
    if route.answer not in {bytes, Negotiated}:
        answer = inspect.type_info(route.answer)
        assert isinstance(answer, inspect.StructType)
        assert [name for info in structs_in(answer) for name in undescribed(info)] == []
    assert route.statuses
    assert route.errors
    assert [error for error in route.errors if error not in PROBLEM_TYPES] == []
    assert route.handler is None or route.handler.__doc__


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_every_parameter_is_described_and_those_of_the_path_are_in_it(route: Route) -> None:
    for struct in (route.path_parameters, route.query):
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        for field in info.fields:
            assert isinstance(field.type, inspect.Metadata), field.name
            assert (field.type.extra_json_schema or {}).get("description"), field.name
    fields = route.path_parameters.__struct_encode_fields__
    assert set(re.findall(r"{(\w+)}", route.path)) == set(fields)


def test_no_fact_of_an_error_is_hidden_by_what_every_problem_has() -> None:
    for error in PROBLEM_TYPES:
        facts = {name for _, name, _, _ in Formatter().parse(error.__doc__ or "") if name}
        assert not facts & {
            "type",
            "title",
            "status",
            "detail",
            "instance",
            "request_id",
        }, error


def test_no_two_routes_are_the_same() -> None:
    names = [name_of(route) for route in ROUTES]
    assert len(names) == len(set(names))


async def check(client: Client, route: Route, path: str) -> Any:  # noqa: ANN401 - an answer
    """Call a route; its answer has to be of the type that the table says, and nothing besides."""
    response = await client.request(route.method, path)
    assert response.status in route.statuses, (path, response.body)
    if route.answer in {bytes, Negotiated}:
        return response.body
    answer = msgspec.json.decode(response.body, type=route.answer, strict=True)
    assert msgspec.json.encode(answer) + b"\n" == response.body, path
    return answer


async def deliver(client: Client) -> None:
    """Put one thing of each kind on record, an event that cannot be folded, and a rejection."""
    await client.loopz(
        "gift-card.created",
        {"id": "x", "balance": {"amount": 5, "currencyCode": "USD"}, "code": "ABCD-1234"},
    )
    await client.loopz("gift-card.updated", {"id": "x", "balance": "much"})
    await client.loopz(
        "transaction.created",
        {"id": "x", "type": "REDEEM", "amount": {"amount": 1250, "currencyCode": "USD"}},
    )
    await client.loopz("location.created", {"id": "x"})
    await client.loopz("location.created", b"no JSON")


async def test_every_get_answers_what_the_table_says(client: Client) -> None:
    await deliver(client)
    await client.request("POST", "/v1/keys", json={"name": "one", "scopes": ["read"]})
    for kind in KINDS:
        await client.get(f"/v1/{kind}?at_least=4")
    listed: list[Any] = []
    async with asyncio.timeout(10):
        while not listed:
            await asyncio.sleep(0.05)
            listed = (await client.get("/v1/rejections")).json["items"]
    for route in API:
        if route.method != "GET" or route.live or route.path.endswith("/rebuild"):
            continue
        path = route.path.replace(
            "{id}", str(listed[0]["id"]) if "rejections" in route.path else "x"
        )
        for parameter, example in EXAMPLES.items():
            path = path.replace(parameter, example)
        answer = await check(client, route, path)
        assert getattr(answer, "items", True), path


async def test_keys_answer_what_the_table_says(client: Client) -> None:
    routes = {name_of(route): route for route in API if route.path.startswith("/v1/keys")}
    assert all(route.scope == "admin" for route in routes.values())
    wanted = {"name": "m 1", "scopes": ["read", "find"], "merchants": ["m-1"]}
    response = await client.request(
        "POST", "/v1/keys", json={**wanted, "expires_at": "2100-01-01T00:00:00Z"}
    )
    assert response.status == 201
    made = msgspec.json.decode(response.body, type=routes["POST /v1/keys"].answer)
    assert {name: response.json[name] for name in wanted} == wanted
    revoke = routes["POST /v1/keys/{id}/revoke"]
    revoked = await check(client, revoke, f"/v1/keys/{made.id}/revoke")
    assert revoked.revoked_at is not None
    assert (await client.request("POST", "/v1/keys/999/revoke")).status == 404
    wrongs: list[dict[str, Any]] = [
        {"name": ""},
        {"scopes": []},
        {"scopes": ["fly"]},
        {"merchants": []},
        {"scopes": ["admin"]},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2100-01-01T00:00:00"},
        {"more": 1},
    ]
    for wrong in wrongs:
        answer = await client.request("POST", "/v1/keys", json={**wanted, **wrong})
        assert (answer.status, answer.json["type"]) == (400, "urn:loopledger:problem:bad-body")


async def test_every_post_answers_what_the_table_says(client: Client) -> None:
    await deliver(client)
    one = "/v1/projections/gift_cards"
    posts = {route.path: route for route in API if route.method == "POST"}
    show = next(route for route in API if name_of(route) == "GET /v1/projections/{name}/rebuild")

    async def post(action: str) -> Any:  # noqa: ANN401 - an answer
        return await check(client, posts[f"/v1/projections/{{name}}/{action}"], f"{one}/{action}")

    async def ready() -> Rebuild:
        async with asyncio.timeout(30):
            while True:
                rebuild: Rebuild = await check(client, show, f"{one}/rebuild")
                if rebuild.status == "ready":
                    return rebuild
                await asyncio.sleep(0.05)

    assert (await post("rebuild")).generation == 2
    rebuild = await ready()
    assert rebuild.diff is not None
    assert rebuild.diff.is_empty
    assert (await post("promote")).generation == 2
    assert (await post("rollback")).generation == 1
    assert (await post("rebuild")).status == "building"
    assert (await post("discard")).generation == 1


async def test_a_body_where_none_is_taken_is_refused_and_not_ignored(client: Client) -> None:
    path = "/v1/projections/gift_cards/rebuild"
    answer = await client.request("POST", path, json={"promote": True})
    assert (answer.status, answer.json["type"]) == (400, "urn:loopledger:problem:bad-body")
    assert "path and the query" in answer.json["detail"]
    assert (await client.get(path)).status == 404


async def test_a_retry_answers_what_the_table_says(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPZ_TOKEN", "a-token-of-some-length")
    verification = {"tokens": {"secrets": [{"env": "LOOPZ_TOKEN"}]}, "merchant_ids": ["m-2"]}
    strict = {
        "loopz": msgspec.convert({"verification": verification}, LoopzSettings),
        "fitbank": settings_types()["fitbank"](),
    }
    async with (
        start(providers=strict) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        token = {"Authorization": "Bearer a-token-of-some-length"}
        refused = await Client(session).loopz("location.created", {"id": "x"}, headers=token)
        assert refused.status == 401
    # A server that stops writes down what it refused.
    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        route = next(route for route in API if route.path.endswith("/retry"))
        answer = await check(Client(session), route, route.path.replace("{id}", "1"))
    assert answer.position == 1


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        (
            "/v1/events?limit=abc",
            "The parameter limit must be a whole number from 1 to 1000, not 'abc'.",
        ),
        (
            "/v1/events?limit=1001",
            "The parameter limit must be a whole number from 1 to 1000, not '1001'.",
        ),
        (
            "/v1/gift-cards?deleted=perhaps",
            "The parameter deleted must be any, false or true, not 'perhaps'.",
        ),
        (
            "/v1/events?colour=red",
            (
                "The parameter colour is unknown here; known are after, cursor, fields, limit, merchant_id, program_id,"
                " provider, recorded_before, recorded_since, sort, stream, topic."
            ),
        ),
        ("/v1/events/1?limit=1", "The parameter limit is unknown here; none is known."),
        ("/v1/events?limit=1&limit=1", "The parameter limit is given more than once."),
    ],
)
async def test_a_wrong_parameter_is_told_in_words_of_the_request(
    client: Client, path: str, detail: str
) -> None:
    assert (await client.get(path)).json["detail"] == detail
