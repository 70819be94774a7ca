"""Rebuilds: a generation is folded beside the live one, compared, and switched to."""

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import Client, values
from tests.support.rebuilding import SWAPPED, post, send_cards, send_cash, until

if TYPE_CHECKING:
    from asyncpg import Connection, Record

TWO_PROCESSES = Limits(poll_seconds=0.05, pool_connections=5, rebuild_processes=2)


async def rebuilt(client: Client, name: str) -> Any:  # noqa: ANN401 - JSON
    """Rebuild a projection; gives the rebuild once it is ready."""
    answer = await client.request("POST", f"/v1/projections/{name}/rebuild")
    assert answer.status == 202, answer.json
    found = await until(
        client, f"/v1/projections/{name}/rebuild", lambda r: r["status"] in {"ready", "failed"}
    )
    assert found["status"] == "ready", found
    return found


async def test_a_rebuild_of_right_states_finds_no_difference(start: StartLoopledger) -> None:
    async with start(limits=TWO_PROCESSES) as one, aiohttp.ClientSession(one.url) as session:
        client = Client(session)
        await send_cards(client, 20, 3)
        await send_cash(client, 3)
        found = await rebuilt(client, "gift_cards")
        assert (found["folded"], found["ignored"], found["quarantined"]) == (60, 6, 0)
        assert found["checkpoint"] == found["target"] == 66
        assert found["diff"]["position"] == 66
        assert found["diff"]["rows"] == {
            "before": 20,
            "after": 20,
            "added": 0,
            "gone": 0,
            "changed": 0,
        }
        assert found["diff"]["columns"] == {}
        # The card that is worth nothing has a fact, and two repeats of it.
        same = {"added": 0, "gone": 0, "changed": 0}
        timeline, postings = found["diff"]["timeline"], found["diff"]["postings"]
        assert timeline == {"name": "gift_cards_timeline", "before": 58, "after": 58} | same
        assert postings == {"name": "gift_cards_postings", "before": 38, "after": 38} | same
        total = str(sum(2000 * n for n in range(20)))
        assert found["diff"]["totals"]["items"] == [
            {"currency": "EUR", "before": total, "after": total, "change": "0"}
        ]


async def test_a_changed_setting_shows_as_stale_and_a_rebuild_puts_it_right(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with start(limits=TWO_PROCESSES) as one, aiohttp.ClientSession(one.url) as session:
        client = Client(session)
        await send_cash(client, 3)
        await until(client, "/v1/projections/transactions", lambda p: p["lag"] == 0)
    async with (
        start(limits=TWO_PROCESSES, providers=SWAPPED) as one,
        aiohttp.ClientSession(one.url) as session,
    ):
        client = Client(session)
        shown = (await client.get("/v1/projections/transactions")).json
        assert shown["stale"]
        assert "loopledger rebuild transactions" in shown["advice"]
        found = await rebuilt(client, "transactions")
        assert found["diff"]["rows"]["changed"] == 3
        assert found["diff"]["columns"] == {"kind": 3}
        assert found["diff"]["sample"][0] == {
            "stream": "fitbank/66/transaction/t-0",
            "diverged_at": 1,
            "changes": {"kind": {"before": "withdrawal", "after": "deposit"}},
        }
        kinds = "SELECT DISTINCT kind FROM transactions"
        assert values(await connection.fetch(kinds)) == [("withdrawal",)]
        promoted = await post(client, "/v1/projections/transactions/promote")
        assert (promoted["generation"], promoted["stale"]) == (2, False)
        assert values(await connection.fetch(kinds)) == [("deposit",)]
        await client.fitbank(
            {
                "Method": "UpdateDepositClosedLoopStatusMongo",
                "BusinessUnitId": 66,
                "TransactionIdentifier": "t-9",
            }
        )
        answer = await client.get("/v1/transactions/t-9?at_least=7")
        assert answer.json["kind"] == "deposit"
        rolled = await post(client, "/v1/projections/transactions/rollback")
        assert (rolled["generation"], rolled["stale"]) == (1, True)
        assert (await client.get("/v1/transactions/t-0")).json["kind"] == "withdrawal"
        assert (await client.get("/v1/transactions/t-9?at_least=7")).status == 200


async def test_two_rebuilds_of_one_projection_at_once_are_refused(client: Client) -> None:
    await send_cards(client, 3, 1)
    await rebuilt(client, "gift_cards")
    answer = await client.request("POST", "/v1/projections/gift_cards/rebuild")
    assert (answer.status, answer.json["type"]) == (409, "urn:loopledger:problem:rebuilding")
    assert (await client.request("POST", "/v1/projections/gift_cards/rollback")).status == 409
    await post(client, "/v1/projections/gift_cards/discard")
    assert (await client.get("/v1/projections/gift_cards/rebuild")).status == 404
    await rebuilt(client, "gift_cards")


@pytest.mark.parametrize("what", ["promote", "discard", "rollback"])
async def test_what_is_not_there_cannot_be_promoted_discarded_or_rolled_back_to(
    client: Client, what: str
) -> None:
    answer = await client.request("POST", f"/v1/projections/gift_cards/{what}")
    assert answer.status in {404, 409}
    assert "gift_cards" in answer.json["detail"]
