"""Distributing over Citus, against a stand-in that refuses what Citus refuses: nothing here starts a cluster."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from eventstore.distribution.distributing import check_cluster, distribute
from eventstore.errors import FencedError, PostgresError
from eventstore.fold.generation import GenerationTables
from eventstore.postgres.database import Database, keep_plans
from projections import load_projections
from projections.gift_cards import PROJECTION
from tests.support import new_event, values
from tests.support.citus import calls, make_citus
from tests.support.folding import LIMITS, append, fold_live, projector
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

PROJECTIONS = load_projections()

SETTINGS = (
    "SELECT current_setting('plan_cache_mode'), current_setting('citus.multi_shard_modify_mode', true),"
    " current_setting('citus.enable_unsafe_triggers', true)"
)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator["Connection[Record]"]:
    """A connection to a database with cards on record and folded, and with the stand-in."""
    database = Database(dsn, pool_connections=2)
    await database.open()
    await append(
        database, [new_event("gift-card.updated", {"id": one, "balance": 1}) for one in "ab"]
    )
    await fold_live(database)
    await database.close()
    found = await asyncpg.connect(dsn)
    await make_citus(found)
    # The others have ended when Postgres says so.
    while await found.fetchval(  # noqa: ASYNC110 - nobody tells
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'loopledger'"
    ):
        await asyncio.sleep(0.02)
    yield found
    await found.close()


async def test_a_database_without_citus_is_refused(dsn: str) -> None:
    plain = await asyncpg.connect(dsn)
    with pytest.raises(PostgresError, match="this database has no Citus extension"):
        await check_cluster(plain)
    await plain.close()


@pytest.mark.parametrize(
    ("function", "answer", "problem"),
    [
        ("citus_version() RETURNS text", "'Citus 11.3.0 on x'", "runs Citus 11.3.0"),
        ("citus_is_coordinator() RETURNS boolean", "false", "is a worker"),
    ],
    ids=["too-old", "worker"],
)
async def test_a_cluster_that_does_not_fit_is_refused(
    connection: "Connection[Record]", function: str, answer: str, problem: str
) -> None:
    await connection.execute(
        f"CREATE OR REPLACE FUNCTION {function} LANGUAGE sql AS $$ SELECT {answer} $$"
    )
    with pytest.raises(PostgresError, match=problem):
        await check_cluster(connection)


async def test_the_log_and_every_generation_are_distributed_by_stream(
    connection: "Connection[Record]",
) -> None:
    await check_cluster(connection)
    await distribute(connection, PROJECTIONS)
    assert await calls(connection) == [
        ("events", "stream", "none"),
        ("gift_cards_1", "stream", "events"),
        ("gift_cards_timeline_1", "stream", "events"),
        ("gift_cards_postings_1", "stream", "events"),
    ]
    partitions = await connection.fetch(
        "SELECT p.inhrelid FROM pg_inherits AS p LEFT JOIN pg_dist_partition AS d ON d.logicalrel = p.inhrelid"
        " WHERE p.inhparent = 'events'::regclass AND d.logicalrel IS NULL"
    )
    assert partitions == []
    assert await connection.fetchval("SELECT bool_and(mode = 'sequential') FROM citus_calls")
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'events_pkey'"
    assert await connection.fetchval(key) == 'PRIMARY KEY ("position", stream)'


async def test_what_orders_and_leads_stays_on_the_coordinator(
    connection: "Connection[Record]",
) -> None:
    """Every table that is neither the log nor of a generation; so nothing is forgotten that comes later."""
    await distribute(connection, PROJECTIONS)
    local = await connection.fetch(
        "SELECT c.relname FROM pg_class AS c LEFT JOIN pg_dist_partition AS d ON d.logicalrel = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND d.logicalrel IS NULL"
        " AND c.relname !~ 'citus|^pg_' ORDER BY 1"
    )
    assert [name for (name,) in local] == [
        *("keys", "leadership", "log_head", "log_scan", "projections", "quarantine", "refiled"),
        *("rejections", "schema_versions", "timelines"),
    ]


async def test_what_is_distributed_already_is_left_alone(connection: "Connection[Record]") -> None:
    await distribute(connection, PROJECTIONS)
    before = await calls(connection)
    assert await distribute(connection, PROJECTIONS) == []
    assert await calls(connection) == before


async def test_a_dry_run_names_every_statement_and_changes_nothing(
    connection: "Connection[Record]",
) -> None:
    planned = await distribute(connection, PROJECTIONS, dry_run=True)
    assert await calls(connection) == []
    assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 2
    assert await distribute(connection, PROJECTIONS) == planned


async def test_nothing_is_distributed_while_a_server_runs(
    connection: "Connection[Record]", dsn: str
) -> None:
    server = await Database(dsn, pool_connections=1).connect()
    with pytest.raises(PostgresError, match="1 sessions of Loopledger servers are open"):
        await distribute(connection, PROJECTIONS)
    await server.close()
    assert await calls(connection) == []


async def test_what_citus_refuses_changes_nothing(connection: "Connection[Record]") -> None:
    await connection.execute("CREATE UNIQUE INDEX one_id ON gift_cards_1 (id)")
    with pytest.raises(PostgresError, match=r"cannot create constraint on .* Nothing was changed"):
        await distribute(connection, PROJECTIONS)
    assert await calls(connection) == []
    assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 2


async def test_a_log_that_is_distributed_is_appended_to_and_folded_on(
    connection: "Connection[Record]", dsn: str
) -> None:
    await distribute(connection, PROJECTIONS)
    database = Database(dsn, pool_connections=5)
    await database.open()
    assert database.distributed
    log = Log(database, LIMITS)
    await log.start()
    await log.appender.append(new_event("gift-card.updated", {"id": "a", "balance": 5}))
    one = await projector(database, log)
    while await one.fold_next():
        pass
    await log.stop()
    assert values(await connection.fetch("SELECT id, balance FROM gift_cards ORDER BY id")) == [
        ("a", 5),
        ("b", 1),
    ]
    await database.close()


async def test_the_tables_of_a_new_generation_are_distributed_when_they_are_made(
    connection: "Connection[Record]",
) -> None:
    await distribute(connection, PROJECTIONS)
    before = await calls(connection)
    tables = GenerationTables(PROJECTION, 2)
    for _ in range(2):
        await tables.create(connection)
        await tables.create_indexes(connection)
    assert (await calls(connection))[len(before) :] == [
        ("gift_cards_2", "stream", "events"),
        ("gift_cards_timeline_2", "stream", "events"),
        ("gift_cards_postings_2", "stream", "events"),
    ]
    # Which the view shows without a complaint about its columns.
    await GenerationTables(PROJECTION, 1).create_views(connection)
    await tables.create_views(connection)


async def test_tables_are_not_distributed_where_the_log_is_not(
    connection: "Connection[Record]",
) -> None:
    await GenerationTables(PROJECTION, 2).create(connection)
    assert await calls(connection) == []


async def test_plans_are_made_once_on_postgres_and_by_values_on_citus(
    connection: "Connection[Record]", dsn: str
) -> None:
    async def settings(database: Database) -> list[tuple[object, ...]]:
        appending = await database.connect()
        await keep_plans(appending)
        found = [tuple(await appending.fetchrow(SETTINGS) or ())]
        await appending.close()
        await database.open()
        found.append(tuple(await database.fetchrow(SETTINGS) or ()))
        await database.close()
        return found

    folding = Database(dsn, pool_connections=1, durable=False)
    assert await settings(folding) == [("auto", "sequential", "on")] * 2
    await connection.execute("DROP TABLE pg_dist_partition")
    assert await settings(folding) == [("force_generic_plan", None, None)] * 2


async def test_a_state_that_arrives_late_on_citus_is_read_again(
    connection: "Connection[Record]", dsn: str
) -> None:
    await distribute(connection, PROJECTIONS)
    database = Database(dsn, pool_connections=5)
    await database.open()
    log = Log(database, LIMITS)
    await log.start()
    one = await projector(database, log)
    await log.appender.append(new_event("gift-card.updated", {"id": "a", "balance": 5}))
    prepared = await one._prepare(one.checkpoint, None, {})
    assert prepared is not None
    # What a projector that died had written.
    await connection.execute("UPDATE gift_cards_1 SET position = 999 WHERE id = 'a'")
    with pytest.raises(FencedError):
        await one._write(prepared)
    await one.reload()
    assert await one.fold_next() == 1
    await log.stop()
    await database.close()
