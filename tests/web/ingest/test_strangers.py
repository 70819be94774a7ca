"""Strangers are budgeted apart from known senders, and no secret of ours goes on record with what they send."""

import base64
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from eventstore.limits import Limits
from tests.support import Client
from tests.support.http import eventually
from tests.support.verified import BODY, SECRET, VERIFICATIONS, WithVerification, signed
from web.ingest.rate import AddressMeters

PATH_SECRET = "a-path-secret-of-some-length"  # noqa: S105 - made up
FEW = Limits(address_failures_at_once=5, address_failures_per_second=1, address_requests_at_once=20)


async def send(client: Client, path: str, headers: dict[str, str], body: bytes = BODY) -> int:
    return (await client.request("POST", path, data=body, headers=headers)).status


@pytest.mark.parametrize("name", ["path", "basic", "bearer", "hmac", "standard webhooks"])
async def test_wrong_secrets_from_an_address_take_nothing_from_its_correct_deliveries(
    verified: WithVerification, name: str
) -> None:
    path, headers = signed(VERIFICATIONS[name])
    wrong = {key: value for key, value in headers.items() if key.startswith("X-LOOPZ")}
    if name in {"hmac", "standard webhooks"}:
        # Well-formed, so that it takes the body to tell.
        wrong = headers
    async with verified(VERIFICATIONS[name], limits=FEW) as client:
        refused = [await send(client, "/webhooks/loopz", wrong, BODY + b" ") for _ in range(8)]
        accepted = [await send(client, path, headers) for _ in range(15)]
        items = (await eventually(client, "/v1/rejections/2")).json
    assert refused == [401] * 5 + [429] * 3
    assert accepted == [200] * 15
    assert items["cause"] in {"TOO_MANY", "UNVERIFIED"}


def test_signatures_of_an_address_that_failed_too_often_are_computed_within_a_limit() -> None:
    limits = Limits(
        address_failures_at_once=1,
        address_failures_per_second=1,
        suspect_signature_bytes_per_second=1_000,
        body_bytes=500,
    )
    meters = AddressMeters(limits)
    assert [meters.admit_signature("a", 400, 0.0) for _ in range(10)] == [0.0] * 10
    meters.failed.admit("a", 0.0)
    admitted = [meters.admit_signature("a", 400, 0.0) == 0.0 for _ in range(4)]
    assert admitted == [True, True, False, False]
    assert meters.admit_signature("b", 400, 0.0) == 0.0
    assert meters.admit_signature("a", 400, 0.9) == 0.0


def test_no_meter_remembers_more_addresses_than_it_may() -> None:
    meters = AddressMeters(Limits(addresses_remembered=10))
    for n in range(100):
        meters.verified.admit(str(n), 0.0)
        meters.failed.admit(str(n), 0.0)
    assert (len(meters.verified), len(meters.failed)) == (10, 10)


async def test_a_proxy_that_is_not_declared_is_told_of_once(verified: WithVerification) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    forwarded = headers | {"X-Forwarded-For": "192.0.2.9"}
    wrong = forwarded | {"Authorization": "Bearer x"}
    with capture_logs() as logged:
        async with verified(VERIFICATIONS["bearer"]) as client:
            await send(client, path, wrong)
            assert await send(client, path, forwarded) == 200
            for _ in range(3):
                await send(client, path, wrong)
    suspected = [line for line in logged if line["event"] == "proxy_suspected"]
    assert [line["address"] for line in suspected] == ["127.0.0.1"]


NEARLY = {
    "one character off": PATH_SECRET[:-1] + "x",
    "one character short": PATH_SECRET[:-1],
    "with a suffix": PATH_SECRET + "/x",
    "twice": f"{PATH_SECRET}/{PATH_SECRET}",
    "percent-encoded": "%61-path%2Dsecret%2dof-some-length%20",
    "percent-encoded twice": PATH_SECRET.replace("-", "%252D"),
}


@pytest.mark.parametrize("given", NEARLY.values(), ids=NEARLY)
async def test_the_secret_of_the_path_is_never_on_record_when_the_path_was_nearly_right(
    verified: WithVerification, given: str
) -> None:
    _, headers = signed(VERIFICATIONS["path"])
    live = f"/webhooks/loopz/{PATH_SECRET}"
    copies = (live, quote(live, safe=""), quote(quote(live, safe=""), safe=""), given)
    names = ("X-Request-Id", "Request-Id", "X-Correlation-Id", "Correlation-Id")
    headers |= dict(zip(names, copies, strict=True))
    headers |= {"X-Original-URI": live, "Referer": f"http://a{live}", f"X-{PATH_SECRET}": "name"}
    async with verified(VERIFICATIONS["path"]) as client:
        assert await send(client, f"/webhooks/loopz/{given}", headers) == 401
        shown = await eventually(client, "/v1/rejections/1")
    values = dict(shown.json["headers"])
    assert {values[name] for name in names} == {"[redacted]"}
    assert "path-secret" not in shown.body.decode().replace("%2D", "-")
    assert given[:12] not in shown.body.decode()


async def test_no_secret_is_on_record_in_base64_or_in_a_body_that_was_refused(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["basic"])
    pair = base64.b64encode(f"loopz:{SECRET}".encode()).decode()
    other = base64.urlsafe_b64encode(f"x{SECRET}?".encode()).decode()
    headers |= {"X-Request-Id": f"Basic {pair}", "Request-Id": f"t={other};", "User-Agent": SECRET}
    async with verified(VERIFICATIONS["basic"]) as client:
        assert await send(client, path, headers) == 200
        assert await send(client, path, headers, SECRET.encode()) == 400
        event = (await client.get("/v1/events/1")).json
        rejection = (await eventually(client, "/v1/rejections/1")).json
        body = (await client.get("/v1/rejections/1/body")).body
    for record in (event, rejection):
        values = dict(record["headers"])
        assert {values[name] for name in ("X-Request-Id", "Request-Id", "User-Agent")} == {
            "[redacted]"
        }
    assert (rejection["verified"], rejection["size"], body) == (True, len(SECRET), b"")


async def test_headers_that_the_settings_name_are_kept_but_never_credentials(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    headers |= {"X-Region": "eu"}
    kept = ("x-region", "Authorization")
    async with verified(VERIFICATIONS["bearer"], keep_headers=kept) as client:
        assert await send(client, path, headers) == 200
        event = (await client.get("/v1/events/1")).json
    names = {name for name, _ in event["headers"]}
    assert "X-Region" in names
    assert "Authorization" not in names
