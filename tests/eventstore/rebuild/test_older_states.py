"""States that older code folded, which kept nothing for facts that come late, go on being folded until a rebuild."""

from typing import TYPE_CHECKING

import pytest

from tests.conftest import StartLoopledger
from tests.support import values
from tests.support.rebuilding import CARDS, level, ready, running

if TYPE_CHECKING:
    from asyncpg import Connection, Record

pytestmark = pytest.mark.usefixtures("quick")

SHOWN = "SELECT id, balance, code, deleted_at IS NOT NULL FROM gift_cards ORDER BY id"


async def test_states_of_older_code_are_folded_on_and_a_rebuild_shows_what_they_lack(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    partial = {"id": "partial", "balance": 700, "updated_on": "2026-01-03T00:00:00Z"}
    gone = {"id": "gone", "balance": 500, "updated_on": "2026-01-03T00:00:00Z"}
    async with running(start) as client:
        await client.loopz("gift-card.updated", partial)
        await client.loopz("gift-card.deleted", gone)
        await level(client, CARDS)
    # As the tables of older code are.
    await connection.execute(
        "ALTER TABLE gift_cards_1 DROP COLUMN merge, DROP COLUMN effective_at CASCADE"
    )
    late = {"code": "MADE-UP", "balance": 900, "updated_on": "2026-01-02T00:00:00Z"}
    newer = {"balance": 100, "updated_on": "2026-01-04T00:00:00Z"}
    async with running(start) as client:
        await client.loopz("gift-card.updated", {"id": "partial"} | late)
        await client.loopz("gift-card.updated", {"id": "partial"} | newer)
        await client.loopz("gift-card.updated", {"id": "gone"} | newer)
        await level(client, CARDS)
        # As older code did: what comes late is stale. But a deletion holds.
        assert values(await connection.fetch(SHOWN)) == [
            ("gone", 100, None, True),
            ("partial", 100, None, False),
        ]
        rebuilt = await ready(client, CARDS)
        assert rebuilt["diff"]["columns"] == {"code": 1}
        assert rebuilt["diff"]["sample"][0]["diverged_at"] == 3
        await client.request("POST", f"{CARDS}/promote")
        assert values(await connection.fetch(SHOWN)) == [
            ("gone", 100, None, True),
            ("partial", 100, "MADE-UP", False),
        ]
