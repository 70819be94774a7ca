"""What a running Loopledger answers at /metrics."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from runtime.metrics.definitions import METRICS
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.http import eventually, raw
from tests.support.metrics import Scrape, parse, total

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def scrape(client: Client) -> Scrape:
    answer = await client.get("/metrics")
    assert answer.status == 200, answer.body
    return parse(answer.body.decode())


async def test_deliveries_are_counted_by_provider_outcome_and_sender(client: Client) -> None:
    for number in range(3):
        await client.loopz("location.updated", {"id": f"l-{number}"})
    await client.loopz("location.updated", b"no JSON")
    # This one does not come in one piece, so it is aiohttp's.
    slow = await client.request("POST", "/webhooks/fitbank", data=_chunks(b"[]"))
    assert slow.status == 400
    found = await scrape(client)
    assert total(found, "deliveries_total", provider="loopz", outcome="accepted") == 3
    assert total(found, "deliveries_total", provider="loopz", outcome="unparsable") == 1
    assert total(found, "deliveries_total", provider="fitbank", outcome="unparsable") == 1
    assert total(found, "deliveries_total", sender="unverified") == 5
    assert total(found, "delivery_duration_seconds_count", outcome="accepted") == 3
    assert total(found, "delivery_duration_seconds_count", outcome="refused") == 2
    assert total(found, "append_batch_events_sum") == 3


async def _chunks(body: bytes) -> Any:  # noqa: ANN401 - an asynchronous generator
    yield body


async def test_the_path_of_a_stranger_makes_no_label(client: Client) -> None:
    for number in range(3):
        answer = await client.request("POST", f"/webhooks/stranger-{number}", data=b"{}")
        assert answer.status == 404
    found = await scrape(client)
    assert total(found, "deliveries_total", provider="unknown", outcome="not_found") == 3
    providers = {dict(labels).get("provider") for _, labels in found}
    assert providers == {None, "loopz", "fitbank", "unknown"}


async def test_connections_are_counted_by_class_and_by_why_they_were_closed(
    client: Client,
) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    assert b"400 Bad Request" in await raw(client, b"GET / HTTP/1.1\r\nno header\r\n\r\n")
    found = await scrape(client)
    assert total(found, "connections") >= 1
    assert total(found, "connections", **{"class": "known"}) == 0  # nobody is verified here
    assert total(found, "connections_closed_total", reason="malformed") == 1


async def test_no_metric_has_a_tenant_a_stream_or_an_address_as_its_label(client: Client) -> None:
    await client.loopz("location.updated", {"id": "l-7"}, merchant="merchant-7")
    answer = await client.get("/metrics")
    text = answer.body.decode()
    assert "merchant-7" not in text
    assert "l-7" not in text
    assert "127.0.0.1" not in text


async def test_projections_are_measured_against_the_head(client: Client) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    await client.loopz("gift-card.updated", {"id": "x", "balance": "much"})
    for kind in ("gift-cards", "locations", "transactions"):
        await client.get(f"/v1/{kind}?at_least=2")
    found = await scrape(client)
    assert total(found, "log_head_position") == 2
    for name in ("gift_cards", "locations", "transactions"):
        assert total(found, "projection_events", projection=name) == 2
        assert total(found, "projection_checkpoint_position", projection=name) == 2
        assert total(found, "projection_lag_events", projection=name) == 0
        assert total(found, "projection_lag_seconds", projection=name) == 0
        assert total(found, "projection_complete", projection=name) == 1
        assert total(found, "rebuild_status", projection=name) == 0
    assert total(found, "projection_events", projection="gift_cards", result="quarantined") == 1
    newest = total(found, "delivery_last_accepted_timestamp_seconds", provider="loopz")
    assert abs(newest - datetime.now(UTC).timestamp()) < 60


async def test_the_lag_in_seconds_is_the_age_of_the_oldest_event_that_is_not_folded(
    client: Client, connection: "Connection[Record]"
) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    await eventually(client, "/v1/locations/l-1")
    async with connection.transaction():
        # Whoever folds waits for this.
        await connection.execute("LOCK TABLE projections IN EXCLUSIVE MODE")
        await client.loopz("location.updated", {"id": "l-1"})
        await asyncio.sleep(1.5)
        found = await scrape(client)
    assert total(found, "projection_lag_events", projection="locations") == 1
    assert 1 < total(found, "projection_lag_seconds", projection="locations") < 30


async def test_a_rebuild_shows_its_status_and_progress(client: Client) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    await eventually(client, "/v1/locations/l-1")
    await client.request("POST", "/v1/projections/locations/rebuild")
    async with asyncio.timeout(30):
        status = None
        while status != "ready":
            await asyncio.sleep(0.05)
            status = (await client.get("/v1/projections/locations/rebuild")).json["status"]
    found = await scrape(client)
    assert total(found, "rebuild_status", projection="locations", status="ready") == 1
    assert total(found, "rebuild_status", projection="locations") == 1
    assert total(found, "rebuild_progress_ratio", projection="locations") == 1
    assert total(found, "rebuild_target_position", projection="locations") == 1
    assert total(found, "rebuild_builders") == 0


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
    ],
)
async def test_the_format_is_the_one_that_is_asked_for(
    client: Client, accept: str, content_type: str
) -> None:
    answer = await client.request("GET", "/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == content_type
    text = answer.body.decode()
    if "openmetrics" in content_type:
        families = [
            family.name
            for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        ]
        assert "loopledger_deliveries" in families
    else:
        assert parse(text)


async def test_the_metrics_are_for_this_machine_only_unless_they_are_opened(
    start: StartLoopledger,
) -> None:
    for opened, status in ((False, 401), (True, 200)):
        async with (
            start(open_metrics=opened) as loopledger,
            aiohttp.ClientSession(loopledger.url) as session,
        ):
            forwarded = {"X-Forwarded-For": "10.0.0.1"}
            client = Client(session, key="")
            answer = await client.request("GET", "/metrics", headers=forwarded)
            assert answer.status == status
            answer = await client.request("GET", "/v1/events", headers=forwarded)
            assert answer.status == 401


async def test_every_sample_belongs_to_a_metric_of_the_table(client: Client) -> None:
    await client.loopz("location.updated", {"id": "l-1"})
    for sample, labels in await scrape(client):
        name = next(
            name
            for name in (
                sample,
                *(sample.removesuffix(f"_{end}") for end in ("bucket", "count", "sum")),
            )
            if name in METRICS
        )
        assert {label for label, _ in labels} - {"le"} == set(METRICS[name].labels)
