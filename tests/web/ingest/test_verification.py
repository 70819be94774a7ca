"""Who proves who they are may deliver, and nobody else; secrets reach no record."""

import pytest

from tests.support import loopz_headers
from tests.support.http import eventually, raw
from tests.support.verified import BODY, VERIFICATIONS, WithVerification, signed


@pytest.mark.parametrize("name", list(VERIFICATIONS))
async def test_who_proves_who_he_is_may_deliver_and_nobody_else(
    verified: WithVerification, name: str
) -> None:
    path, headers = signed(VERIFICATIONS[name])
    async with verified(VERIFICATIONS[name]) as client:
        good = await client.request("POST", path, data=BODY, headers=headers)
        bare = await client.request(
            "POST", "/webhooks/loopz", data=BODY, headers=loopz_headers("location.updated")
        )
        events = (await client.get("/v1/events")).json["items"]
    assert (good.status, bare.status) == (200, 401)
    assert bare.json["type"] == "urn:loopledger:problem:unverified"
    assert "WWW-Authenticate" in bare.headers
    assert len(events) == 1


async def test_a_body_that_was_altered_on_the_way_is_refused(verified: WithVerification) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    async with verified(VERIFICATIONS["hmac"]) as client:
        answer = await client.request("POST", path, data=BODY + b" ", headers=headers)
    assert answer.status == 401


async def test_a_tenant_that_is_not_taken_is_refused(verified: WithVerification) -> None:
    async with verified({"merchant_ids": ["m-1"]}) as client:
        mine = await client.loopz("location.updated", {"id": "a"}, merchant="m-1")
        other = await client.loopz("location.updated", {"id": "a"}, merchant="m-2")
    assert (mine.status, other.status) == (200, 401)


async def test_no_credential_and_no_signature_secret_reaches_record_or_answer(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    async with verified(VERIFICATIONS["bearer"]) as client:
        await client.request("POST", path, data=BODY, headers=headers)
        wrong = headers | {"Authorization": "Bearer wrong-but-close"}
        refusal = await client.request("POST", path, data=BODY, headers=wrong)
        event = await client.get("/v1/events/1")
        rejection = await eventually(client, "/v1/rejections/1")
    for answer in (refusal, event, rejection):
        assert b"a-token-of-some-length" not in answer.body
        assert b"wrong-but-close" not in answer.body


HOSTILE_SIGNATURES = [
    "",
    "v1",
    "v1,",
    "v1,!!!",
    "v1," + "A" * 4000,
    "v2,AAAA",
    ",",
    "v1a,AAAA",
    "é\u00ff",
    " ".join(["v1,AAAA"] * 1000),
]


@pytest.mark.parametrize("signature", HOSTILE_SIGNATURES, ids=lambda text: repr(text[:12]))
async def test_a_malformed_signature_is_a_401(verified: WithVerification, signature: str) -> None:
    path, headers = signed(VERIFICATIONS["standard webhooks"])
    headers["webhook-signature"] = signature
    async with verified(VERIFICATIONS["standard webhooks"]) as client:
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 401


@pytest.mark.parametrize("timestamp", ["nan", "inf", "-1", "1e9", "", "9" * 400, "0", "١٢٣"])
async def test_a_malformed_or_old_time_stamp_is_a_401(
    verified: WithVerification, timestamp: str
) -> None:
    path, headers = signed(VERIFICATIONS["standard webhooks"])
    headers["webhook-timestamp"] = timestamp
    async with verified(VERIFICATIONS["standard webhooks"]) as client:
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 401


async def test_ten_thousand_signatures_are_refused_before_they_cost_anything(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["standard webhooks"])
    async with verified(VERIFICATIONS["standard webhooks"]) as client:
        many = b" ".join([b"v1,AAAA"] * 10_000)
        reply = await raw(
            client,
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nwebhook-signature: %b\r\nContent-Length: 2\r\n\r\n{}"
            % (path.encode(), many),
        )
    assert reply.split(b" ")[1] in {b"400", b"401", b"431"}
    assert headers
