"""Answers that whoever asks has already: entity tags and If-None-Match."""

import asyncio
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Answer, Client
from tests.support.keys import key_in
from web.accepting import quality_of
from web.conditional import tag_of


async def ask(client: Client, path: str, tag: str, **headers: str) -> Answer:
    named = {"If-None-Match": tag} | {n.replace("_", "-"): v for n, v in headers.items()}
    return await client.request("GET", path, headers=named)


async def one_location(client: Client) -> str:
    await client.loopz("location.created", {"id": "l-1", "name": "Here", "status": "ACTIVE"})
    await client.get("/v1/locations?at_least=1")
    return "/v1/locations/l-1"


@pytest.mark.parametrize(
    "path", ["/v1/locations/l-1", "/v1/locations", "/v1/events/1", "/v1/events/1/body"]
)
async def test_whoever_has_an_answer_is_told_so(client: Client, path: str) -> None:
    await one_location(client)
    first = await client.get(path)
    tag = first.headers["ETag"]
    assert tag.startswith('"')
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await ask(client, path, known)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == tag
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
        assert again.headers["Vary"] == first.headers["Vary"] if "Vary" in first.headers else True
    assert (await ask(client, path, '"other"')).status == 200


async def test_another_state_has_another_tag(client: Client) -> None:
    path = await one_location(client)
    tag = (await client.get(path)).headers["ETag"]
    # The same content; but another event has confirmed it.
    await client.loopz("location.updated", {"id": "l-1", "name": "There", "status": "ACTIVE"})
    answer = await ask(client, f"{path}?at_least=2", tag)
    assert answer.status == 200
    assert answer.json["name"] == "There"


async def test_a_promotion_is_never_answered_by_a_304(client: Client) -> None:
    path = await one_location(client)
    paths = (path, "/v1/locations")
    before = [await client.get(each) for each in paths]
    one = "/v1/projections/locations"
    assert (await client.request("POST", f"{one}/rebuild?promote=true")).status == 202
    async with asyncio.timeout(30):
        generation = 1
        while generation == 1:
            await asyncio.sleep(0.05)
            generation = (await client.get(one)).json["generation"]
    for each, known in zip(paths, before, strict=True):
        after = await ask(client, each, known.headers["ETag"])
        assert (after.status, after.body) == (200, known.body)
        assert after.headers["ETag"] != known.headers["ETag"]


async def test_other_fields_and_another_mask_have_another_tag(client: Client, dsn: str) -> None:
    await client.loopz(
        "gift-card.created", {"id": "x", "code": "ABCD-1234", "gan": "6006490000001234"}
    )
    await client.get("/v1/gift-cards?at_least=1")
    key = await key_in(dsn, "read", "reveal")
    tags = {
        (await client.request("GET", path, headers=headers)).headers["ETag"]
        for path in (
            "/v1/gift-cards/x",
            "/v1/gift-cards/x?fields=id,code",
            "/v1/gift-cards/x?fields=code",
        )
        for headers in ({"Authorization": f"Bearer {key}"}, {})
    }
    assert len(tags) == 6


async def test_a_head_has_the_tag_and_the_length_of_the_body(client: Client) -> None:
    path = await one_location(client)
    whole = await client.get(path)
    head = await client.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type", "Cache-Control"):
        assert head.headers[name] == whole.headers[name]
    named = {"If-None-Match": whole.headers["ETag"]}
    assert (await client.request("HEAD", path, headers=named)).status == 304


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nope"])
async def test_what_is_about_a_moment_has_no_tag(client: Client, path: str) -> None:
    assert "ETag" not in (await client.get(path)).headers


def test_a_tag_tells_versions_types_and_bytes_apart() -> None:
    assert len({tag_of(v, t, b) for v in ("1", "2") for t in ("a", "b") for b in (b"", b"x")}) == 8


async def test_a_body_is_compressed_for_whoever_asks(client: Client) -> None:
    for n in range(20):
        await client.loopz("location.created", {"id": f"l-{n}", "name": "Here"})
    path = "/v1/locations?at_least=20"
    plain = await client.request("GET", path, headers={"Accept-Encoding": "identity"})
    client.session._auto_decompress = False
    packed = await client.request("GET", path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert int(packed.headers["Content-Length"]) == len(packed.body) < len(plain.body)
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept, Accept-Encoding"
    # Other bytes, another tag.
    assert packed.headers["ETag"] != plain.headers["ETag"]
    tag = packed.headers["ETag"]
    assert (await ask(client, path, tag, Accept_Encoding="gzip")).status == 304
    assert (await ask(client, path, tag, Accept_Encoding="identity")).status == 200


@pytest.mark.parametrize(
    "accepted", ["", "identity", "gzip;q=0", "gzip;q=0.1, identity", "br", "*;q=0", "gzip;q=x"]
)
async def test_a_body_stays_as_it_is_for_whoever_wants_that(client: Client, accepted: str) -> None:
    for n in range(20):
        await client.loopz("location.created", {"id": f"l-{n}", "name": "Here"})
    answer = await client.request(
        "GET", "/v1/locations?at_least=20", headers={"Accept-Encoding": accepted}
    )
    assert len(answer.body) > 1024
    assert "Content-Encoding" not in answer.headers


async def test_what_is_small_is_not_compressed(client: Client) -> None:
    path = await one_location(client)
    answer = await client.request("GET", path, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("gzip", {"gzip": 1.0}),
        ("GZIP ; Q=0.25,br;q=1.000", {"gzip": 0.25, "br": 1.0}),
        ("gzip;q=1.5", {"gzip": 0.0}),
        ("text/csv; header=present; q=0.5", {"text/csv": 0.5}),
        (" , ,", {}),
    ],
)
def test_weights_are_read_as_they_are_written(header: str, found: dict[str, float]) -> None:
    assert quality_of(header) == found


@given(st.text(max_size=200))
def test_no_header_is_too_odd_to_be_read(header: str) -> None:
    assert all(0 <= quality <= 1 for quality in quality_of(header).values())


async def test_at_least_may_stand_in_the_head(client: Client) -> None:
    await client.loopz("location.created", {"id": "l-1"})
    await client.loopz("location.created", {"id": "l-2"})
    named = {"At-Least": "2"}
    for path in ("/v1/locations/l-2", "/v1/locations/l-2?at_least=1"):
        assert (await client.request("GET", path, headers=named)).status == 200
    # Where there is nothing to wait for, nobody minds.
    assert (await client.request("GET", "/v1/events", headers=named)).status == 200
    for wrong in ("-1", "x", "", "1" * 30):
        answer = await client.request("GET", "/v1/locations", headers={"At-Least": wrong})
        assert (answer.status, answer.json["header"]) == (400, "At-Least")
