"""The tables of a generation: what becomes of them, and of their views, under other code."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from eventstore.fold.generation import GenerationTables
from eventstore.postgres.database import Database
from projections.gift_cards import PROJECTION
from tests.support import new_event, values
from tests.support.folding import LIMITS, append, fold_live
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def columns(connection: "Connection[Record]", table: str) -> dict[str, tuple[str, bool]]:
    rows = await connection.fetch(
        "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns"
        " WHERE table_name = $1",
        table,
    )
    return {name: (type_, nullable) for name, type_, nullable in values(rows)}


CHANGED: dict[str, Callable[[dict[str, tuple[str, bool]]], bool]] = {
    "ALTER TABLE gift_cards_1 DROP COLUMN gan, DROP COLUMN created_at": lambda now: (
        now["gan"] == ("text", True) and now["created_at"][1]
    ),
    "ALTER TABLE gift_cards_1 ADD COLUMN colour text NOT NULL DEFAULT 'red';"
    "ALTER TABLE gift_cards_1 ALTER COLUMN colour DROP DEFAULT": lambda now: (
        now["colour"] == ("text", True)
    ),
    "ALTER TABLE gift_cards_1 ALTER COLUMN balance TYPE numeric": lambda now: (
        now["balance"] == ("bigint", True) and now["balance_was_numeric"] == ("numeric", True)
    ),
    "ALTER TABLE gift_cards_1 ALTER COLUMN provider TYPE varchar(20)": lambda now: (
        now["provider"][0] == "text" and now["provider_was_character"][1]
    ),
    "ALTER TABLE gift_cards_timeline_1 DROP COLUMN absent": lambda now: "balance" in now,
    "DROP TABLE gift_cards_timeline_1, gift_cards_postings_1": lambda now: "balance" in now,
}


@pytest.mark.parametrize("statement", CHANGED)
async def test_tables_of_other_code_are_adapted_and_keep_what_they_hold(
    database: Database, connection: "Connection[Record]", statement: str
) -> None:
    await append(database, [new_event("gift-card.updated", {"id": "a", "balance": 5})])
    await fold_live(database)
    await connection.execute(
        "DROP VIEW gift_cards, gift_cards_timeline, gift_cards_postings, balance_changes CASCADE"
    )
    await connection.execute(statement)
    tables = GenerationTables(PROJECTION, 1)
    for _ in range(2):
        async with database.transaction() as session:
            await tables.adapt(session)
            await tables.create_views(session)
    assert CHANGED[statement](await columns(connection, "gift_cards_1"))
    assert await connection.fetchval("SELECT id FROM gift_cards") == "a"
    log = Log(database, LIMITS)
    await log.start(follow=False)
    await log.appender.append(new_event("gift-card.updated", {"id": "a", "balance": 6, "gan": "g"}))
    await log.stop()
    await fold_live(database)
    row = await connection.fetchrow("SELECT id, balance, gan FROM gift_cards")
    assert row is not None
    assert tuple(row.values()) == ("a", 6, "g")
    assert await connection.fetchval("SELECT max(after) FROM balance_changes") == 6


async def test_a_column_that_changed_its_type_is_indexed_again(
    database: Database, connection: "Connection[Record]"
) -> None:
    await fold_live(database)
    await connection.execute("DROP VIEW gift_cards CASCADE")
    await connection.execute("ALTER TABLE gift_cards_1 ALTER COLUMN status TYPE varchar(20)")
    await fold_live(database)
    definitions = await connection.fetch(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'gift_cards_1'"
    )
    assert any("(status)" in definition for (definition,) in values(definitions))


async def test_a_view_that_somebody_built_on_survives_a_new_column(
    database: Database, connection: "Connection[Record]"
) -> None:
    await fold_live(database)
    await connection.execute("DROP VIEW gift_cards CASCADE")
    await connection.execute(
        "CREATE VIEW projected.gift_cards AS SELECT stream, position, balance, id FROM gift_cards_1"
    )
    await connection.execute("CREATE VIEW report AS SELECT sum(balance) FROM gift_cards")
    await fold_live(database)
    assert await connection.fetchval("SELECT count(*) FROM report") == 1
    assert list(await columns(connection, "gift_cards")) == [
        *("stream", "position", "balance", "id"),
        *(
            name
            for name in GenerationTables(PROJECTION, 1).states.shown
            if name not in {"stream", "position", "balance", "id"}
        ),
    ]


async def test_a_view_that_somebody_built_on_does_not_keep_a_server_of_newer_code_from_starting(
    database: Database, connection: "Connection[Record]"
) -> None:
    await fold_live(database)
    await connection.execute("ALTER TABLE gift_cards_1 ADD COLUMN colour text")
    await connection.execute("DROP VIEW gift_cards CASCADE")
    await connection.execute("CREATE VIEW projected.gift_cards AS TABLE gift_cards_1")
    await connection.execute("CREATE VIEW report AS SELECT colour FROM gift_cards")
    await fold_live(database)
    assert await connection.fetchval("SELECT count(*) FROM report") == 0


async def test_changes_of_older_code_give_way_to_a_timeline_and_go_with_their_generation(
    database: Database, connection: "Connection[Record]"
) -> None:
    await append(
        database, [new_event("gift-card.updated", {"id": "a", "balance": n}) for n in (5, 6)]
    )
    await fold_live(database)
    # As older code left it: no timeline, a table of changes, a view of that with a column that is gone.
    await connection.execute(
        "DROP TABLE gift_cards_timeline_1, gift_cards_postings_1 CASCADE;"
        "CREATE TABLE projected.balance_changes_1 (stream text, position bigint, recorded_at timestamptz,"
        " before bigint, after bigint, delta numeric, currency text, topic text);"
        "INSERT INTO balance_changes_1"
        " VALUES ('loopz/m-1/gift-card/a', 1, now(), NULL, 5, 5, NULL, 'gift-card.updated');"
        "CREATE VIEW projected.balance_changes AS TABLE balance_changes_1;"
        "CREATE VIEW report AS SELECT sum(delta), max(topic) FROM balance_changes"
    )
    await fold_live(database)
    log = Log(database, LIMITS)
    await log.start(follow=False)
    await log.appender.append(new_event("gift-card.updated", {"id": "a", "balance": 9}))
    await log.stop()
    await fold_live(database)
    assert values(await connection.fetch("SELECT * FROM report")) == [(9, None)]
    postings = "SELECT position, amount FROM gift_cards_postings"
    assert values(await connection.fetch(postings)) == [(3, 3)]
    async with database.transaction() as session:
        await connection.execute(
            "DROP VIEW gift_cards, gift_cards_timeline, gift_cards_postings, balance_changes CASCADE"
        )
        await GenerationTables(PROJECTION, 1).drop(session)
    tables = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'projected'"
    )
    assert values(tables) == []
