"""What was refused is on record, bounded, and can be tried again."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import aiohttp
import msgspec
import pytest

from commands.rejections import ChangedError, vouch
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.rejections import NewRejection, Rejections
from tests.conftest import StartLoopledger
from tests.support import NOON, Client
from tests.support.http import eventually
from tests.support.listed import listed_rejections
from tests.support.verified import BODY, VERIFICATIONS, WithVerification, signed

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


# Verified, and yet refused: of a merchant that the settings do not name.
OTHERS = {"merchant_ids": ["m-2"]}


async def digest(client: Client, id_: int = 1) -> str:
    """What an operator vouches for."""
    return str((await eventually(client, f"/v1/rejections/{id_}")).json["digest"])


async def test_a_refusal_for_a_fault_of_the_settings_is_put_on_record_after_the_fix(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    async with verified(VERIFICATIONS["hmac"] | OTHERS) as client:
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 401
        await eventually(client, "/v1/rejections")
        assert (await client.request("POST", "/v1/rejections/1/retry")).status == 409
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
    assert (rejection["position"], rejection["verified"]) == (1, True)


async def test_of_a_stranger_are_kept_the_cause_and_what_headers_came_but_no_body(
    verified: WithVerification, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    path, headers = signed(VERIFICATIONS["hmac"])
    monkeypatch.setenv("DOOR_SECRET", "a mistyped secret")
    headers |= {"X-Anything": "hunter2"}
    async with verified(VERIFICATIONS["hmac"]) as client:
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 401
        rejection = (await eventually(client, "/v1/rejections/1")).json
        body = (await client.get("/v1/rejections/1/body")).body
        await vouch(1, rejection["digest"], database)
        retried = await client.request("POST", "/v1/rejections/1/retry")
    assert "the signature in X-Signature is wrong" in rejection["problem"]
    assert ["X-LOOPZ-MERCHANT-ID", "m-1"] in rejection["headers"]
    assert ["X-Anything", "[not kept]"] in rejection["headers"]
    assert (rejection["verified"], rejection["size"], body) == (False, len(BODY), b"")
    assert (retried.status, "have it sent again" in retried.json["detail"]) == (409, True)


async def test_a_refusal_whose_credentials_are_not_on_record_needs_somebody_to_vouch_for_it(
    verified: WithVerification, database: Database
) -> None:
    async with others(verified) as client:
        refused = await client.request("POST", "/v1/rejections/1/retry")
        guessed = await client.request("POST", "/v1/rejections/1/retry?trust=true")
        await vouch(1, await digest(client), database)
    async with verified(VERIFICATIONS["bearer"]) as client:
        vouched = await client.request("POST", "/v1/rejections/1/retry")
    assert (refused.status, guessed.status, vouched.status) == (409, 400, 200)
    assert "--trust" in refused.json["detail"]


@asynccontextmanager
async def others(verified: WithVerification, **changes: object) -> AsyncIterator[Client]:
    """A Loopledger that has refused a delivery of another merchant, whose token was right."""
    path, headers = signed(VERIFICATIONS["bearer"])
    async with verified(VERIFICATIONS["bearer"] | OTHERS, **changes) as client:
        assert (await client.request("POST", path, data=BODY, headers=headers)).status == 401
        await eventually(client, "/v1/rejections/1")
        yield client


async def test_trust_is_in_the_bytes_that_were_seen_and_in_no_others(
    verified: WithVerification, database: Database
) -> None:
    path, headers = signed(VERIFICATIONS["bearer"])
    async with others(verified) as client:
        seen = await digest(client)
        await vouch(1, seen, database)
        await client.request("POST", path, data=BODY, headers=headers | {"X-Request-Id": "r-2"})
        await asyncio.sleep(1)
        rejection = (await client.get("/v1/rejections/1")).json
        with pytest.raises(ChangedError):
            await vouch(1, seen, database)
    assert (rejection["count"], rejection["trusted"]) == (2, False)
    assert rejection["digest"] != seen


async def test_what_a_stranger_repeats_changes_nothing_that_was_verified(
    verified: WithVerification, database: Database
) -> None:
    _, headers = signed(VERIFICATIONS["bearer"])
    async with others(verified) as client:
        await vouch(1, await digest(client), database)
        before = (await client.get("/v1/rejections/1")).json
        forged = headers | {"Authorization": "Bearer x", "X-LOOPZ-PROGRAM-ID": "p-2"}
        await client.request("POST", "/webhooks/loopz", data=BODY, headers=forged)
        await eventually(client, "/v1/rejections/2")
        after = (await client.get("/v1/rejections/1")).json
    assert before["trusted"]
    assert after == before


async def test_1500_wrong_secrets_leave_what_an_operator_needs_and_a_small_table(
    verified: WithVerification, connection: "Connection[Record]"
) -> None:
    async with others(verified) as client:
        before = await connection.fetchval("SELECT pg_total_relation_size('rejections')")
        for n in range(30):
            await asyncio.gather(
                *(
                    client.request(
                        "POST",
                        "/webhooks/loopz",
                        data=b"%d %d" % (n, m) + b"x" * 60_000,
                        headers={"X-LOOPZ-MERCHANT-ID": f"{n} {m}", "Authorization": "Bearer x"},
                    )
                    for m in range(50)
                )
            )
        await asyncio.sleep(1)
        first = (await client.get("/v1/rejections/1")).json
        items = (await client.get("/v1/rejections")).json["items"]
        after = await connection.fetchval("SELECT pg_total_relation_size('rejections')")
    assert (first["verified"], first["complete"]) == (True, True)
    assert len(items) <= 3
    assert sum(item["count"] for item in items if not item["verified"]) == 1_500
    assert after - before < 500_000


async def test_the_rows_of_strangers_and_of_verified_senders_push_out_only_their_own_kind(
    database: Database,
) -> None:
    limits = Limits(rejections_kept=3, stranger_rejections_kept=5, rejections_bytes=200)
    rejections = Rejections(database, limits)
    for n in range(20):
        rejections.note(noted(n, verified=False))
    rejections.note(noted(100, body=b"b" * 150))
    await rejections.write()
    for n in range(20, 60):
        rejections.note(noted(n, verified=False))
        await rejections.write()
    kept = await listed_rejections(database)
    assert [item.verified for item in kept].count(False) == 5
    assert [item.size for item in kept if item.verified] == [150]
    rejections.note(noted(101, body=b"c" * 160))
    await rejections.write()
    kept = await listed_rejections(database)
    assert [item.size for item in kept if item.verified] == [160]


async def test_where_anybody_may_send_nobody_pushes_out_rejections_of_another_provider(
    database: Database,
) -> None:
    rejections = Rejections(database, Limits(rejections_kept=3, rejections_per_second=5))
    for n in range(50):
        rejections.note(msgspec.structs.replace(noted(n + 1), provider="fitbank"))
    rejections.note(noted(0))
    for _ in range(3):
        await rejections.write()
    kept = await listed_rejections(database)
    assert sorted(item.provider for item in kept) == ["fitbank"] * 3 + ["loopz"]


def noted(n: int, *, body: bytes = b"", verified: bool = True) -> NewRejection:
    return NewRejection(
        provider="loopz",
        cause="UNVERIFIED",
        problem="p",
        address="192.0.2.1",
        identity=b"%d" % n,
        headers=b"",
        body=body,
        size=len(body),
        at=NOON + timedelta(seconds=n),
        verified=verified,
    )


async def test_what_is_written_a_second_is_bounded_and_its_space_is_used_again(
    database: Database, connection: "Connection[Record]"
) -> None:
    limits = Limits(
        rejections_kept=20, rejections_per_second=10, rejection_bytes_per_second=100_000
    )
    rejections = Rejections(database, limits)
    for n in range(100):
        rejections.note(noted(n, body=b"%d" % n + os.urandom(5_000)))
    await rejections.write()
    assert len(await listed_rejections(database)) == 10
    sizes = []
    for wave in range(6):
        rejections = Rejections(database, Limits(rejections_kept=20))
        for n in range(50):
            rejections.note(noted(n, body=b"%d %d" % (wave, n) + os.urandom(4_000)))
        await rejections.write()
        # As autovacuum does, when it comes by.
        await connection.execute("VACUUM rejections")
        sizes.append(await connection.fetchval("SELECT pg_total_relation_size('rejections')"))
    # Each wave has 200 kB; a few pages more or less are chance.
    assert sizes[-1] < sizes[1] + 100_000
    options = await connection.fetchval(
        "SELECT reloptions::text FROM pg_class WHERE oid = 'rejections'::regclass"
    )
    assert "autovacuum_vacuum_scale_factor=0" in options


async def test_refusals_that_differ_only_in_their_headers_are_kept_apart(
    verified: WithVerification,
) -> None:
    path, headers = signed(VERIFICATIONS["path"])
    async with verified(VERIFICATIONS["path"] | {"program_ids": ["p-9"]}) as client:
        for merchant in ("m-1", "m-2"):
            of = headers | {"X-LOOPZ-MERCHANT-ID": merchant}
            await client.request("POST", path, data=BODY, headers=of)
        await eventually(client, "/v1/rejections/2")
        items = (await client.get("/v1/rejections")).json["items"]
    assert [item["count"] for item in items] == [1, 1]


async def test_a_refusal_that_comes_again_after_it_was_put_on_record_can_be_tried_again(
    verified: WithVerification, database: Database
) -> None:
    for position in (1, 2):
        async with others(verified) as client:
            await asyncio.sleep(1)
            await vouch(1, await digest(client), database)
        async with verified(VERIFICATIONS["bearer"]) as client:
            answer = await client.request("POST", "/v1/rejections/1/retry")
            assert answer.json == {"position": position}


async def test_a_refusal_whose_headers_do_not_fit_is_never_tried_again_with_half_of_them(
    verified: WithVerification, database: Database
) -> None:
    async with others(verified, limits=Limits(rejection_header_bytes=50)) as client:
        await vouch(1, await digest(client), database)
    async with verified(VERIFICATIONS["bearer"]) as client:
        answer = await client.request("POST", "/v1/rejections/1/retry")
    assert answer.status == 409


async def test_a_retry_whose_answer_was_lost_does_not_double_the_event(
    verified: WithVerification, database: Database, connection: "Connection[Record]"
) -> None:
    async with others(verified) as client:
        await vouch(1, await digest(client), database)
    async with verified(VERIFICATIONS["bearer"]) as client:
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
        headers |= {"X-Original-URL": path, "Loopledger-Rejection": "77-77-77"}
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
        assert b"77-77-77" not in shown.body
        assert ["X-Request-Id", "[redacted]"] in shown.json["headers"]
        assert ["Request-Id", "[redacted]"] in shown.json["headers"]
        assert ["Correlation-Id", "r-1"] in shown.json["headers"]
