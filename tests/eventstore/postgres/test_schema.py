"""The schema: made once, however many servers start, and the same by creation and by migration."""

import asyncio
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from eventstore.errors import LogCorruptedError, PostgresError
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres import schema
from eventstore.postgres.database import Database
from eventstore.postgres.schema import all_migrations, migrate, set_up_schema
from tests.conftest import Cluster

EMPTY = "template1"

SNAPSHOT = """
SELECT 'column', table_name || '.' || column_name,
    concat_ws(' ', ordinal_position, data_type, is_nullable, column_default)
FROM information_schema.columns WHERE table_schema IN ('public', 'projected', 'masked')
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace::regnamespace::text IN ('public', 'projected', 'masked')
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname IN ('public', 'projected', 'masked')
UNION ALL
SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) || ' ' || tgenabled::text
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'function', proname, pg_get_functiondef(oid)
FROM pg_proc WHERE pronamespace::regnamespace::text IN ('public', 'projected', 'masked')
UNION ALL
SELECT 'options', relname, reloptions::text
FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'projected', 'masked')
UNION ALL
SELECT 'version', version::text, '' FROM schema_versions
ORDER BY 1, 2, 3
"""


async def test_migrating_and_creating_give_the_same_database(cluster: Cluster) -> None:
    async with cluster.database(EMPTY) as created, cluster.database(EMPTY) as migrated:
        one = await asyncpg.connect(created)
        other = await asyncpg.connect(migrated)
        await set_up_schema(one)
        for number, file in all_migrations().items():
            await migrate(other, number, file)
        assert await one.fetch(SNAPSHOT) == await other.fetch(SNAPSHOT)
        assert len(await one.fetch(SNAPSHOT)) > 20
        await one.close()
        await other.close()


async def test_migrations_are_numbered_from_one_without_a_hole() -> None:
    assert list(all_migrations()) == list(range(1, len(all_migrations()) + 1))


async def test_servers_that_start_at_once_make_the_schema_once(cluster: Cluster) -> None:
    async with cluster.database(EMPTY) as url:
        databases = [Database(url, pool_connections=1) for _ in range(4)]
        await asyncio.gather(*(database.open() for database in databases))
        assert await databases[0].fetchval("SELECT count(*) FROM log_head") == 1
        for database in databases:
            await database.close()


async def test_a_second_start_leaves_the_schema_as_it_is(cluster: Cluster) -> None:
    async with cluster.database(EMPTY) as url:
        connection = await asyncpg.connect(url)
        await set_up_schema(connection)
        before = await connection.fetch(SNAPSHOT)
        await set_up_schema(connection)
        assert await connection.fetch(SNAPSHOT) == before
        await connection.close()


async def test_a_missing_migration_is_applied(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.database() as url:
        for file in all_migrations().values():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / f"{len(all_migrations()) + 1:04}_next.sql").write_text(
            "CREATE TABLE later (id integer)"
        )
        monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)
        database = Database(url, pool_connections=1)
        await database.open()
        assert await database.fetchval("SELECT to_regclass('later') IS NOT NULL")
        await database.close()


async def test_a_database_of_a_newer_loopledger_is_left_alone(cluster: Cluster) -> None:
    async with cluster.database() as url:
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO schema_versions (version) VALUES (999)")
        await connection.close()
        with pytest.raises(PostgresError, match="schema version 999"):
            await Database(url, pool_connections=1).open()


async def test_a_log_that_contradicts_its_head_is_not_written_to(cluster: Cluster) -> None:
    async with cluster.database() as url:
        connection = await asyncpg.connect(url)
        await connection.execute("UPDATE log_head SET position = 5")
        await connection.close()
        with pytest.raises(LogCorruptedError, match="head 5, newest event 0"):
            await Database(url, pool_connections=1).open()


async def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/nothing"
    with pytest.raises(PostgresError, match="DATABASE_URL") as caught:
        await Database(url, pool_connections=1).open()
    assert "hunter2" not in str(caught.value)


NO_EVENT = UUID(int=0)

LOG_READS: dict[str, tuple[str, tuple[object, ...]]] = {
    "read_stream": ("events_1_hashtextextended_position_idx", ("s-7", 3, 100, 2**20)),
    "find_in_stream": ("events_1_hashtextextended_position_idx", ("s-7", NO_EVENT)),
    "find_appended": ("events_1_hashtextextended_position_idx", ([NO_EVENT], 3, ["s-7", "s-8"])),
    "read_slice": ("events_1_pkey", (10, 50, None, 2**20)),
    "list_events": ("events_1_pkey", (10, 50)),
    "read_event": ("events_1_pkey", (10,)),
}


@pytest.mark.parametrize("name", LOG_READS)
async def test_the_log_is_read_through_its_indexes(cluster: Cluster, name: str) -> None:
    index, values = LOG_READS[name]
    async with cluster.database() as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO events SELECT n, now(), now(), gen_random_uuid(), 'p', 't', 'm', null,"
            " 's-' || n % 500, null, null, '', '' FROM generate_series(1, 5000) AS n; ANALYZE events_1"
        )
        rows = await connection.fetch(f"EXPLAIN {LOG[name]}", *values)
        await connection.close()
    plan = "\n".join(row[0] for row in rows)
    assert index in plan
    assert "Seq Scan" not in plan


async def test_generations_move_to_their_schema_with_all_that_was_built_and_granted_on_them(
    cluster: Cluster,
) -> None:
    async with cluster.database(EMPTY) as url:
        connection = await asyncpg.connect(url)
        for number, file in all_migrations().items():
            if number == 6:
                await connection.execute(GENERATIONS)
            await migrate(connection, number, file)
        moved = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'projected'::regnamespace ORDER BY 1"
        )
        kept = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relname IN ('notes_1', 'report', 'events_1') ORDER BY 1"
        )
        await connection.execute("SET ROLE pg_monitor")
        total = await connection.fetchval("SELECT sum FROM report")
        cards = await connection.fetchval("SELECT count(*) FROM projected.gift_cards")
        await connection.close()
    assert [name for (name,) in moved] == [
        "gift_cards",
        "gift_cards_1",
        "gift_cards_1_pkey",
        "gift_cards_2",
    ]
    assert [name for (name,) in kept] == ["events_1", "notes_1", "report"]
    assert (total, cards) == (7, 1)


# A live generation, one that is being built, what somebody built on them, and what only looks like one.
GENERATIONS = """
CREATE TABLE gift_cards_1 (stream text NOT NULL, position bigint NOT NULL, balance bigint);
CREATE UNIQUE INDEX gift_cards_1_pkey ON gift_cards_1 (stream);
INSERT INTO gift_cards_1 VALUES ('s', 1, 7);
CREATE TABLE gift_cards_2 (stream text NOT NULL, position bigint NOT NULL, balance bigint);
CREATE VIEW gift_cards AS SELECT * FROM gift_cards_1;
CREATE VIEW report AS SELECT sum(balance)::int AS sum FROM gift_cards;
CREATE TABLE notes_1 (stream text PRIMARY KEY, position bigint);
GRANT SELECT ON gift_cards, report TO pg_monitor;
"""
