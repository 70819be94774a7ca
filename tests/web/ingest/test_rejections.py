"""What was refused is on record, bounded, and can be tried again."""

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import aiohttp
import pytest

from commands.rejections import vouch
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.http import eventually
from tests.support.verified import BODY, SECRET, VERIFICATIONS, WithVerification, signed

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def test_a_refusal_is_on_record_with_its_cause_and_a_repeat_is_counted(
    client: Client,
) -> None:
    for _ in range(3):
        await client.loopz("location.updated", b'{"id": nope}')
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    (item,) = (await client.get("/v1/rejections")).json["items"]
    whole = (await client.get("/v1/rejections/1")).json
    assert (item["cause"], item["provider"], item["count"]) == ("UNPARSABLE", "loopz", 3)
    assert item["address"] == "127.0.0.1"
    assert "byte 7" in item["problem"]
    assert ["X-LOOPZ-MERCHANT-ID", "m-1"] in whole["headers"]
    assert (await client.get("/v1/rejections/1/body")).body == b'{"id": nope}'


async def test_refusals_are_bounded_in_number_and_bytes(start: StartLoopledger) -> None:
    limits = Limits(rejections_kept=5, rejection_body_bytes=10)
    async with (
        start(limits=limits) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        for wave in range(3):
            for n in range(5):
                await client.loopz("location.updated", b"no JSON %d %d" % (wave, n))
            await asyncio.sleep(0.8)
        items = (await client.get("/v1/rejections")).json["items"]
        bodies = [(await client.get(f"/v1/rejections/{item['id']}/body")).body for item in items]
    assert len(items) == 5
    assert {len(body) for body in bodies} == {10}


async def test_a_refusal_for_a_fault_of_the_settings_is_put_on_record_after_the_fix(
    verified: WithVerification, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    monkeypatch.setenv("DOOR_SECRET", "a mistyped secret")
    async with verified(VERIFICATIONS["hmac"]) as client:
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 401
        await eventually(client, "/v1/rejections")
        assert (await client.request("POST", "/v1/rejections/1/retry")).status == 401
    monkeypatch.setenv("DOOR_SECRET", SECRET)
    async with verified(VERIFICATIONS["hmac"]) as client:
        first = await client.request("POST", "/v1/rejections/1/retry")
        again = await client.request("POST", "/v1/rejections/1/retry")
        event = (await client.get("/v1/events/1")).json
        body = (await client.get("/v1/events/1/body")).body
        rejection = (await client.get("/v1/rejections/1")).json
    assert (first.status, first.json) == (200, {"position": 1})
    assert again.status == 409
    assert ["Loopledger-Rejection", "1"] in event["headers"]
    assert body == BODY
    assert rejection["position"] == 1


async def test_a_refusal_whose_credentials_are_not_on_record_needs_somebody_to_vouch_for_it(
    verified: WithVerification, database: Database
) -> None:
    async with verified(VERIFICATIONS["bearer"]) as client:
        await client.loopz("location.updated", BODY)
        await eventually(client, "/v1/rejections")
        refused = await client.request("POST", "/v1/rejections/1/retry")
        guessed = await client.request("POST", "/v1/rejections/1/retry?trust=true")
        await vouch(1, database)
        vouched = await client.request("POST", "/v1/rejections/1/retry")
    assert (refused.status, guessed.status, vouched.status) == (409, 400, 200)
    assert "--trust" in refused.json["detail"]


async def test_refusals_that_differ_only_in_their_headers_are_kept_apart(
    verified: WithVerification,
) -> None:
    async with verified(VERIFICATIONS["path"]) as client:
        await client.loopz("gift-card.created", {"id": "c"}, merchant="m-1")
        await client.loopz("gift-card.deleted", {"id": "c"}, merchant="m-2")
        await eventually(client, "/v1/rejections/2")
        items = (await client.get("/v1/rejections")).json["items"]
    assert [item["count"] for item in items] == [1, 1]


async def test_a_refusal_that_comes_again_after_it_was_put_on_record_can_be_tried_again(
    verified: WithVerification, database: Database
) -> None:
    async with verified(VERIFICATIONS["bearer"]) as client:
        for position in (1, 2):
            await client.loopz("location.updated", BODY)
            await asyncio.sleep(1)
            await vouch(1, database)
            answer = await client.request("POST", "/v1/rejections/1/retry")
            assert answer.json == {"position": position}


async def test_a_refusal_whose_headers_do_not_fit_is_never_tried_again_with_half_of_them(
    verified: WithVerification, database: Database
) -> None:
    limits = Limits(rejection_header_bytes=200)
    async with verified(VERIFICATIONS["bearer"], limits=limits) as client:
        await client.loopz("location.updated", BODY, headers={"X-Padding": "p" * 300})
        await eventually(client, "/v1/rejections/1")
        await vouch(1, database)
        answer = await client.request("POST", "/v1/rejections/1/retry")
    assert answer.status == 409


async def test_a_retry_whose_answer_was_lost_does_not_double_the_event(
    verified: WithVerification, database: Database, connection: "Connection[Record]"
) -> None:
    async with verified(VERIFICATIONS["bearer"]) as client:
        await client.loopz("location.updated", BODY)
        await eventually(client, "/v1/rejections/1")
        await vouch(1, database)
        await client.request("POST", "/v1/rejections/1/retry")
        await connection.execute("UPDATE rejections SET position = NULL, retried_at = NULL")
        again = await client.request("POST", "/v1/rejections/1/retry")
        events = (await client.get("/v1/events")).json["items"]
    assert again.json == {"position": 1}
    assert len(events) == 1


async def test_no_header_of_a_proxy_takes_the_secret_of_the_path_along(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["path"])
    async with verified(VERIFICATIONS["path"]) as client:
        encoded = path.replace("-", "%2d").replace("s", "%73")
        headers |= {"X-Original-URL": path, "Loopledger-Rejection": "77"}
        headers |= {
            "X-Authorization": "a-path-secret",
            "X-Request-Id": path,
            "Request-Id": encoded,
            "Correlation-Id": "r-1",
        }
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 200
        # What refuses a path that is nearly right must not keep the right one.
        wrong = await client.request("POST", f"{path}x", data=BODY, headers=headers)
        assert wrong.status == 401
        await eventually(client, "/v1/rejections/1")
        event = await client.get("/v1/events/1")
        rejection = await client.get("/v1/rejections/1")
    for shown in (event, rejection):
        assert b"a-path-secret" not in unquote_to_bytes(shown.body)
        assert b"Loopledger-Rejection" not in shown.body
        assert ["X-Request-Id", "[redacted]"] in shown.json["headers"]
        assert ["Request-Id", "[redacted]"] in shown.json["headers"]
        assert ["Correlation-Id", "r-1"] in shown.json["headers"]
