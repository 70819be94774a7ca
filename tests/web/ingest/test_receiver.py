"""Webhooks in: exact bytes on record before the 200, or a clear refusal."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from eventstore.limits import MIB, Limits
from tests.conftest import StartLoopledger
from tests.support import Client, encoded, loopz_headers

if TYPE_CHECKING:
    from asyncpg import Connection, Record

FITBANK = {
    "Method": "UpdatePurchaseClosedLoopStatusMongo",
    "BusinessUnitId": 66,
    "Status": "Created",
    "TotalValue": "20.00",
    "TransactionIdentifier": "TRA1TRA",
}


async def test_a_delivery_is_answered_with_its_position(client: Client) -> None:
    first = await client.loopz("location.updated", {"id": "l-1"})
    second = await client.fitbank(FITBANK)
    assert (first.status, first.json) == (200, {"position": 1})
    assert (second.status, second.json) == (200, {"position": 2})


async def test_a_topic_that_nothing_handles_is_taken_and_told_of_once(client: Client) -> None:
    with capture_logs() as logged:
        for topic in ("gift-card.frozen", "gift-card.frozen", "gift-card.updated"):
            assert (await client.loopz(topic, {"id": "g-1"})).status == 200
    told = [line for line in logged if line["event"] == "topic_unknown"]
    assert [(line["provider"], line["topic"]) for line in told] == [("loopz", "gift-card.frozen")]


async def test_what_was_acknowledged_is_committed(
    client: Client, connection: "Connection[Record]"
) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    assert await connection.fetchval("SELECT position FROM events") == 1


async def test_topic_and_tenant_of_loopz_come_from_the_headers(client: Client) -> None:
    await client.loopz("gift-card.updated", {"id": "g-1"}, merchant="acme")
    event = (await client.get("/v1/events/1")).json
    assert event["topic"] == "gift-card.updated"
    assert event["merchant_id"] == "acme"
    assert event["program_id"] == "p-1"
    assert event["stream"] == "loopz/acme/gift-card/g-1"


async def test_topic_and_tenant_of_fitbank_come_from_the_body(client: Client) -> None:
    await client.fitbank(FITBANK)
    event = (await client.get("/v1/events/1")).json
    assert event["topic"] == "UpdatePurchaseClosedLoopStatusMongo"
    assert event["stream"] == "fitbank/66/transaction/TRA1TRA"


async def test_the_bytes_on_record_are_those_that_were_sent(client: Client) -> None:
    body = b'\n{ "id" : "l-1",\t"id":"l-1", "x": 1e400, "y": "\\u0000 \\ud800" } '
    await client.loopz("location.updated", body)
    assert (await client.get("/v1/events/1/body")).body == body
    event = (await client.get("/v1/events/1")).json
    assert event["sha256"] == hashlib.sha256(body).hexdigest()


CREDENTIALS = (
    "Authorization",
    "X-Authorization",
    "X-Auth-Key",
    "X-Api_Key",
    "X-Api-Token",
    "Ocp-Apim-Subscription-Key",
    "X-JWT",
    "Cf-Access-Jwt-Assertion",
    "X-Forwarded-Client-Cert",
    "Cookie",
    "Referer",
)


async def test_headers_are_kept_as_received_if_they_are_known_to_be_no_credentials(
    client: Client,
) -> None:
    sent = dict.fromkeys(CREDENTIALS, "hunter2") | {"x-request-id": "r é", "User-Agent": "u"}
    await client.loopz("location.updated", {"id": "l-1"}, headers=sent)
    answer = await client.get("/v1/events/1")
    assert answer.json["headers"] == [
        ["X-LOOPZ-WEBHOOK-TOPIC", "location.updated"],
        ["X-LOOPZ-MERCHANT-ID", "m-1"],
        ["X-LOOPZ-PROGRAM-ID", "p-1"],
        ["X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID", "s-1"],
        ["x-request-id", "r é"],
        ["User-Agent", "u"],
        ["Content-Type", "application/octet-stream"],
    ]


@pytest.mark.parametrize("topic", ["gift-card.exploded", "weather.changed"])
async def test_a_topic_nobody_knows_goes_on_record_and_is_ignored(
    client: Client, topic: str
) -> None:
    assert (await client.loopz(topic, {"id": "x"})).status == 200
    await client.get("/v1/gift-cards?at_least=1")
    for projection in (await client.get("/v1/projections")).json["items"]:
        assert (projection["folded"], projection["quarantined"]) == (0, 0)


async def test_an_object_without_an_id_goes_on_record_and_into_quarantine(client: Client) -> None:
    assert (await client.loopz("gift-card.updated", {})).status == 200
    await client.get("/v1/gift-cards?at_least=1")
    cards = (await client.get("/v1/projections")).json["items"][0]
    assert (cards["name"], cards["folded"], cards["quarantined"]) == ("gift_cards", 0, 1)


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"", 0),
        (b"{", 1),
        (b'{"id": nope}', 7),
        (b'{"id": 1} x', 10),
        (b'{"id": "\xff"}', 8),
        (b" [1]", 1),
        (b'"text"', 0),
        (b'{"id": NaN}', 7),
        (b"[" * 100_000, 0),
    ],
)
async def test_what_is_not_a_json_object_is_refused_at_its_byte(
    client: Client, body: bytes, offset: int
) -> None:
    answer = await client.loopz("location.updated", body)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["type"] == "urn:loopledger:problem:unparsable"
    assert answer.json["offset"] == offset


@pytest.mark.parametrize(
    ("topic", "merchant", "missing"),
    [(None, "m-1", "X-LOOPZ-WEBHOOK-TOPIC"), ("location.updated", None, "X-LOOPZ-MERCHANT-ID")],
)
async def test_a_loopz_delivery_without_its_headers_is_refused_by_name(
    client: Client, topic: str | None, merchant: str | None, missing: str
) -> None:
    answer = await client.loopz(topic, {"id": "l-1"}, merchant=merchant)
    assert answer.status == 400
    assert missing in answer.json["detail"]


@pytest.mark.parametrize("missing", ["Method", "BusinessUnitId"])
async def test_a_fitbank_delivery_without_topic_or_tenant_is_refused_by_name(
    client: Client, missing: str
) -> None:
    answer = await client.fitbank({k: v for k, v in FITBANK.items() if k != missing})
    assert answer.status == 400
    assert f"{missing} is missing" in answer.json["detail"]


async def test_what_was_refused_is_not_on_record(client: Client) -> None:
    await client.loopz("location.updated", b"{")
    await client.loopz(None, {})
    assert (await client.get("/v1/events")).json == {"items": [], "next": None}


async def test_a_body_of_exactly_one_mebibyte_is_accepted_and_one_more_byte_is_not(
    client: Client,
) -> None:
    frame = len(encoded({"id": "l-1", "x": ""}))
    fits = encoded({"id": "l-1", "x": "." * (MIB - frame)})
    assert (await client.loopz("location.updated", fits)).status == 200
    answer = await client.loopz("location.updated", fits + b" ")
    assert (answer.status, answer.json["limit"]) == (413, MIB)


async def test_a_chunked_body_is_capped_too(client: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * (MIB // 16)

    answer = await client.request(
        "POST", "/webhooks/loopz", data=chunks(), headers=loopz_headers("location.updated")
    )
    assert answer.status == 413


async def test_an_encoded_body_is_refused_since_its_bytes_would_not_be_those_sent(
    client: Client,
) -> None:
    answer = await client.loopz("location.updated", b"x", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.json["encoding"]) == (415, "gzip")


async def test_a_sender_that_dawdles_is_told_so(start: StartLoopledger) -> None:
    async with start(limits=Limits(body_seconds=0.2)) as loopledger:
        host, port = loopledger.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /webhooks/loopz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()
    assert b" 408 " in status


async def test_an_unknown_provider_is_told_who_is_known(client: Client) -> None:
    answer = await client.request("POST", "/webhooks/nobody", data=b"{}")
    assert answer.status == 404
    assert "fitbank, loopz" in answer.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/webhooks/loopz", 405), ("GET", "/v1/nothing", 404), ("POST", "/v1/events", 405)],
)
async def test_a_wrong_path_or_method_is_a_problem_like_any_other(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_what_the_database_refuses_is_refused_alone(client: Client) -> None:
    long = {"X-LOOPZ-PROGRAM-ID": "p" * 201}
    answers = await asyncio.gather(
        client.loopz("location.updated", {"id": "a"}),
        client.loopz("location.updated", {"id": "b"}, headers=long),
        client.loopz("location.updated", {"id": "c"}),
    )
    assert [answer.status for answer in answers] == [200, 400, 200]
