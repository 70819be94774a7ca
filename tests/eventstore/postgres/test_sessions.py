"""Sessions: nothing that a role, a database or a pooler is set to changes what they do."""

import itertools
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from eventstore.errors import PoolerError, PostgresError
from eventstore.postgres.database import Database
from tests.conftest import Cluster, StartLoopledger
from tests.support.pooler import Pooler
from tests.support.rebuilding import CARDS, level, post, running, settled

HOSTILE = {
    "idle_session_timeout": "'300ms'",
    "statement_timeout": "'1ms'",
    "lock_timeout": "'1ms'",
    "transaction_timeout": "'30ms'",
    "idle_in_transaction_session_timeout": "'1ms'",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "search_path": "'pg_catalog'",
    "row_security": "off",
    "client_min_messages": "'debug5'",
    '"TimeZone"': "'Pacific/Chatham'",
    '"DateStyle"': "'SQL, DMY'",
    '"IntervalStyle"': "'sql_standard'",
    "bytea_output": "'escape'",
    "standard_conforming_strings": "off",
    "session_replication_role": "'replica'",
    "plan_cache_mode": "'force_custom_plan'",
    "jit": "on",
    "exit_on_error": "on",
    "quote_all_identifiers": "on",
    "synchronous_commit": "off",
    "restrict_nonsystem_relation_kind": "'view'",
}


_NUMBERS = itertools.count(1)

# Where a setting may stand: with the database, with the role, with the role in this database.
PLACES = ("DATABASE {database}", "ROLE {role}", "ROLE {role} IN DATABASE {database}")


class Hostile(NamedTuple):
    """A database of a role's own, and both may be set to anything."""

    dsn: str
    database: str
    role: str
    cluster: Cluster

    async def set(self, place: str, *names: str) -> None:
        """Set the settings of these names in a place."""
        where = place.format(database=self.database, role=self.role)
        for name in names:
            await self.cluster.execute(f"ALTER {where} SET {name} = {HOSTILE[name]}")


@pytest.fixture
async def hostile(cluster: Cluster) -> AsyncIterator[Hostile]:
    """Its role is a superuser: some of the settings are nobody else's to change back."""
    role = f"role_{next(_NUMBERS)}"
    await cluster.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'once'")
    async with cluster.database("template1") as admin:
        database = admin.split("?", maxsplit=1)[0].rsplit("/", 1)[1]
        await cluster.execute(f"ALTER DATABASE {database} OWNER TO {role}")
        dsn = re.sub("//[^@]*@", f"//{role}:once@", admin).partition("&passfile")[0]
        yield Hostile(dsn, database, role, cluster)
    await cluster.execute(f"DROP ROLE {role}")


async def work(start: StartLoopledger, dsn: str) -> None:
    """Take a delivery, fold it, read it, and fold everything again."""
    async with running(start, database_url=dsn) as client:
        for n in range(3):
            sent = await client.loopz("gift-card.updated", {"id": "c-1", "balance": n})
            assert sent.status == 200
        await level(client, CARDS)
        shown = await client.get("/v1/gift-cards/c-1")
        assert shown.json["balance"] == 2
        await settled(client, CARDS)
        await post(client, f"{CARDS}/promote")
        assert (await client.get("/v1/gift-cards/c-1")).json == shown.json


@pytest.mark.parametrize("place", PLACES[:2])
@pytest.mark.parametrize("timeouts", [True, False])
async def test_no_setting_changes_what_a_server_does_wherever_it_stands(
    hostile: Hostile, start: StartLoopledger, place: str, *, timeouts: bool
) -> None:
    await hostile.set(place, *(name for name in HOSTILE if name.endswith("_timeout") == timeouts))
    await work(start, hostile.dsn)


@pytest.mark.parametrize("place", PLACES)
async def test_a_session_sets_what_it_depends_on(hostile: Hostile, place: str) -> None:
    await hostile.set(place, *HOSTILE)
    for durable in (True, False):
        database = Database(hostile.dsn, pool_connections=1, durable=durable)
        await database.open()
        own = await database.connect()
        for read in (database.fetchval, own.fetchval):
            shown = {name: await read(f"SHOW {name}") for name in HOSTILE}
            assert shown["statement_timeout"] == shown["transaction_timeout"] == "0"
            assert shown["lock_timeout"] == shown["idle_session_timeout"] == "0"
            assert (shown["search_path"], shown["jit"]) == ("public", "off")
            assert shown['"TimeZone"'] == "UTC"
            assert shown["session_replication_role"] == "origin"
        assert await own.fetchval("SHOW synchronous_commit") == "on"
        await own.close()
        await database.close()


@pytest.mark.parametrize("place", PLACES)
async def test_a_role_whose_triggers_are_off_is_refused_unless_it_may_switch_them_on(
    hostile: Hostile, place: str
) -> None:
    await hostile.set(place, "session_replication_role")
    await hostile.cluster.execute(f"ALTER ROLE {hostile.role} NOSUPERUSER")
    with pytest.raises(PostgresError, match="session_replication_role"):
        await Database(hostile.dsn, pool_connections=1).open()


async def test_a_log_in_another_schema_is_used_when_the_url_names_it_and_never_begun_anew(
    cluster: Cluster,
) -> None:
    async with cluster.database("template1") as dsn:
        admin = await asyncpg.connect(dsn)
        await admin.execute("CREATE SCHEMA ledger")
        database = Database(f"{dsn}&search_path=ledger", pool_connections=1)
        await database.open()
        assert await database.fetchval("SELECT 'ledger.log_head'::regclass IS NOT NULL")
        await database.close()
        with pytest.raises(PostgresError, match=r"schema ledger.*search_path=ledger"):
            await Database(dsn, pool_connections=1).open()
        assert await admin.fetchval("SELECT to_regclass('public.log_head')") is None
        await admin.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name, for a socket."""
    with tempfile.TemporaryDirectory(prefix="ll-") as name:
        yield Path(name)


@pytest.mark.parametrize("lifo", [True, False])
@pytest.mark.parametrize("others", [0, 1, 2])
async def test_a_pooler_in_transaction_mode_is_refused(
    dsn: str, directory: Path, *, lifo: bool, others: int
) -> None:
    pooler = Pooler(dsn, directory, per_transaction=True, last_in_first_out=lifo)
    async with pooler.running() as url:
        strangers = [await asyncpg.connect(url, statement_cache_size=0) for _ in range(others)]
        for one in strangers:
            await one.execute("BEGIN")
        for one in strangers:
            await one.execute("COMMIT")
        with pytest.raises(PoolerError, match="a pooler stands before it"):
            await Database(url, pool_connections=1).open()
        for one in strangers:
            one.terminate()


async def test_a_pooler_in_session_mode_will_do(dsn: str, directory: Path) -> None:
    async with Pooler(dsn, directory, per_transaction=False).running() as url:
        database = Database(url, pool_connections=2)
        await database.open()
        assert await database.fetchval("SHOW lock_timeout") == "0"
        await database.close()


async def test_a_pooler_that_drops_the_settings_of_a_session_is_refused(
    dsn: str, directory: Path
) -> None:
    pooler = Pooler(dsn, directory, per_transaction=False, startup_parameters=False)
    async with pooler.running() as url:
        with pytest.raises(PoolerError, match="does not pass on the settings"):
            await Database(url, pool_connections=1).open()
