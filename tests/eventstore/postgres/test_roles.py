"""Who may do what: each thing that a role must not do is tried, and refused."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from eventstore.errors import PostgresError
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.postgres.roles import (
    ADMIN,
    OWNER,
    PROJECTOR,
    READER,
    RECEIVER,
    check_role,
    grant_privileges,
    with_password,
)
from eventstore.rejections import NewRejection, Rejections
from runtime.postgres import Urls
from runtime.wiring import prepare
from tests.conftest import SERVER, Cluster
from tests.support import NOON, values
from tests.support.listed import listed_rejections
from tests.support.role_store import (
    PASSWORD,
    SETTINGS,
    Store,
    documented_statements,
    documented_store,
    embedded_store,
    fill,
    own_server,
    store_on,
    takeover_statements,
)
from tests.support.server_process import ServerProcess, failed_start, patiently
from tests.support.standby import PairServer

pytestmark = pytest.mark.skipif(
    SERVER is not None, reason="the roles are those of an embedded server"
)

# What nobody but the owner may do; the owner may not do all of it either.
NOBODY = {
    "change an event": "UPDATE events SET topic = 'x'",
    "delete an event": "DELETE FROM events",
    "empty the log": "TRUNCATE events",
    "change an event in its partition": "UPDATE events_1 SET topic = 'x'",
    "delete an event from its partition": "DELETE FROM events_1",
    "empty a partition": "TRUNCATE events_1",
    "insert an event": "INSERT INTO events SELECT * FROM events",
    "copy events in": "COPY events FROM STDIN",
    "switch a trigger off": "ALTER TABLE events DISABLE TRIGGER ALL",
    "switch a trigger of a partition off": "ALTER TABLE events_1 DISABLE TRIGGER refuse_change",
    "drop a trigger": "DROP TRIGGER refuse_change ON events",
    "alter the log": "ALTER TABLE events ADD COLUMN x integer",
    "detach a partition": "ALTER TABLE events DETACH PARTITION events_1",
    "make the log unlogged": "ALTER TABLE events_1 SET UNLOGGED",
    "drop the log": "DROP TABLE events CASCADE",
    "put a rule on the log": "CREATE RULE r AS ON INSERT TO events DO INSTEAD NOTHING",
    "move the head": "UPDATE log_head SET position = position + 1",
    "lock the head": "SELECT FROM log_head FOR UPDATE",
    "accept a timeline": "INSERT INTO timelines (acceptance, timeline, position) VALUES (9, 9, 9)",
    "replace append_events": "ALTER FUNCTION append_events SECURITY INVOKER",
    "drop append_events": "DROP FUNCTION append_events",
    "alter what refuses": "ALTER FUNCTION refuse_change() RENAME TO other",
    "make a table beside the log": "CREATE TABLE public.x (n integer)",
    "make a function beside the log": "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql RETURN 1",
    "make a schema": "CREATE SCHEMA x",
    "make a temporary table": "CREATE TEMPORARY TABLE x (n integer)",
    "pretend to replicate": "SET session_replication_role = replica",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "read from a program": "COPY projections FROM PROGRAM 'true'",
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "write a file": "COPY (SELECT 1) TO '/tmp/loopledger-was-here'",
    "read passwords": "SELECT rolpassword FROM pg_authid",
    "make a role": "CREATE ROLE x",
    "become the superuser": f"SET ROLE {ADMIN}",
    "change the server": "ALTER SYSTEM SET fsync = off",
    "change the database": "ALTER DATABASE CURRENT SET fsync = off",
    "load a library": "LOAD 'plpython3u'",
    "drop an extension": "DROP EXTENSION plpgsql CASCADE",
    "forget what was migrated": "DELETE FROM schema_versions",
    "look at whom else there is": "SELECT pg_stat_reset()",
}

RECEIVER_MUST_NOT = {
    **NOBODY,
    "become the owner": f"SET ROLE {OWNER}",
    "become the projector": f"SET ROLE {PROJECTOR}",
    "make partitions": "SELECT make_partitions(1)",
    "promote by hand": "UPDATE projections SET status = 'live'",
    "forget a projection": "DELETE FROM projections",
    "change a state": "UPDATE projected.gift_cards SET balance = 1",
    "change a state in its table": "UPDATE projected.gift_cards_1 SET balance = 1",
    "drop states": "DROP TABLE projected.gift_cards_1 CASCADE",
    "make a table beside the states": "CREATE TABLE projected.x (n integer)",
    "empty the quarantine": "DELETE FROM quarantine",
    "vouch for what it refused": "UPDATE rejections SET trusted = sha256(body)",
    "put in what is vouched for": "INSERT INTO rejections (trusted) VALUES (sha256(''))",
    "make a key past its function": "INSERT INTO keys (name, digest, scopes) VALUES ('x', sha256(''), '{read}')",
    "give a key more scopes": "UPDATE keys SET scopes = '{admin}'",
    "have a revoked key count again": "UPDATE keys SET revoked_at = NULL",
    "forget that there are keys": "DELETE FROM keys",
}

# What only who answers requests has to do with.
KEYS = {
    "see who has keys": "SELECT name FROM public.keys",
    "make a key": "SELECT public.create_key('x', sha256(''), '{read}', NULL, NULL, 9)",
    "revoke a key": "SELECT public.revoke_key(1)",
    "change a key": "UPDATE public.keys SET expires_at = NULL",
}

PROJECTOR_MUST_NOT = {
    **NOBODY,
    "become the owner": f"SET ROLE {OWNER}",
    "become the receiver": f"SET ROLE {RECEIVER}",
    "append": "SELECT append_events(0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '')",
    "make partitions": "SELECT make_partitions(1)",
    "hold the head": "SELECT lock_head()",
    "read what was refused": "SELECT * FROM rejections",
    "vouch for what was refused": "UPDATE rejections SET trusted = sha256(body)",
    "replace the masked log": "CREATE OR REPLACE VIEW masked.events AS SELECT 1",
    **KEYS,
}

READER_MUST_NOT = {
    **NOBODY,
    "become the owner": f"SET ROLE {OWNER}",
    "become the projector": f"SET ROLE {PROJECTOR}",
    "append": "SELECT append_events(0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '')",
    "read bodies": "SELECT body FROM public.events",
    "read a partition": "SELECT body FROM public.events_1",
    "read unmasked states": "SELECT code FROM projected.gift_cards",
    "read unmasked states from their table": "SELECT code FROM projected.gift_cards_1",
    "read what was refused": "SELECT * FROM public.rejections",
    "ask for a rebuild": "SELECT public.request_rebuild('gift_cards', null)",
    "change what is masked": "CREATE OR REPLACE VIEW masked.gift_cards AS SELECT 1",
    **KEYS,
}

# The owner is held by triggers, and by not being a superuser.
OWNER_MUST_NOT = {
    what: NOBODY[what]
    for what in (
        "change an event",
        "delete an event",
        "empty the log",
        "change an event in its partition",
        "delete an event from its partition",
        "empty a partition",
        "pretend to replicate",
        "run a program",
        "read a file",
        "write a file",
        "read passwords",
        "make a role",
        "become the superuser",
        "change the server",
        "load a library",
    )
}

MUST_NOT = {
    OWNER: OWNER_MUST_NOT,
    RECEIVER: RECEIVER_MUST_NOT,
    PROJECTOR: PROJECTOR_MUST_NOT,
    READER: READER_MUST_NOT,
}

REFUSALS = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.RestrictViolationError,
    asyncpg.ReadOnlySQLTransactionError,
)


@pytest.fixture(scope="module")
def server(public_directory: Path) -> Iterator[PairServer]:
    """One of somebody's own."""
    with own_server(public_directory / "own") as found:
        yield found


@pytest.fixture(scope="module", params=["embedded", "documented"])
def store(request: pytest.FixtureRequest, cluster: Cluster) -> Store:
    """One for all tests: nothing that they try changes it."""
    if request.param == "embedded":
        return asyncio.run(embedded_store(cluster))
    return asyncio.run(documented_store(request.getfixturevalue("server")))


@pytest.mark.parametrize(
    ("role", "what"), [(role, what) for role, tries in MUST_NOT.items() for what in tries]
)
async def test_a_role_is_refused_what_it_must_not_do(store: Store, role: str, what: str) -> None:
    connection = await asyncpg.connect(
        store.dsn(role),
        # As if it had undone what its role is set to.
        server_settings={
            "search_path": "public, projected",
            "default_transaction_read_only": "off",
        },
    )
    try:
        statement = MUST_NOT[role][what].replace("DATABASE CURRENT", f"DATABASE {store.name}")
        with pytest.raises(REFUSALS):
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("role", [RECEIVER, PROJECTOR, READER])
async def test_a_role_owns_nothing_of_the_log(store: Store, role: str) -> None:
    connection = await asyncpg.connect(store.dsn(ADMIN))
    owned = await connection.fetch(
        "SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE c.relowner = $1::text::regrole GROUP BY 1 ORDER BY 1",
        role,
    )
    functions = await connection.fetchval(
        "SELECT count(*) FROM pg_proc WHERE proowner = $1::text::regrole", role
    )
    await connection.close()
    expected = ["masked", "pg_toast", "projected"] if role == PROJECTOR else []
    assert [name for (name,) in owned] == expected
    assert functions == 0


async def test_a_report_sees_what_is_masked_by_the_plain_names(store: Store) -> None:
    connection = await asyncpg.connect(store.dsn(READER))
    card = await connection.fetchrow("SELECT id, balance, code, gan FROM gift_cards")
    changes = await connection.fetchval("SELECT count(*) FROM balance_changes")
    sizes = await connection.fetch("SELECT position, size FROM events ORDER BY position")
    columns = await connection.fetchrow("SELECT * FROM events LIMIT 1")
    await connection.close()
    assert tuple(card or ()) == ("c-1", 7, "****1234", "****")
    assert changes == 2
    assert [position for position, _ in sizes] == [1, 2]
    assert not {"body", "headers"} & set((columns or {}).keys())


async def test_the_receiver_appends_notes_rejections_and_asks_for_rebuilds(store: Store) -> None:
    database = Database(store.urls.receiving, pool_connections=2)
    await database.open()
    rejections = Rejections(database, Limits())
    rejections.note(
        NewRejection(
            verified=True,
            provider="loopz",
            cause="signature",
            problem="is wrong",
            address="127.0.0.1",
            identity=b"",
            headers=b"",
            body=b"{}",
            size=2,
            at=NOON,
        )
    )
    await rejections.write()
    ((noted),) = await listed_rejections(database)
    assert await rejections.claim(noted.id)
    await rejections.finish(noted.id, None)
    assert await database.fetchval("SELECT request_promotion('gift_cards')") is None
    assert await database.fetchval("SELECT request_rollback('gift_cards')") is None
    assert await database.fetchval("SELECT request_rebuild('gift_cards', null)") == 2
    assert await database.fetchval("SELECT request_rebuild('gift_cards', null)") is None
    assert await database.fetchval("SELECT request_discard('gift_cards')") == 2
    await database.close()
    projector = await asyncpg.connect(store.dsn(PROJECTOR))
    await projector.execute("DELETE FROM projections WHERE generation = 2")
    await projector.close()


async def test_partitions_that_are_made_later_are_the_owners(store: Store) -> None:
    owner = await asyncpg.connect(store.urls.owner)
    await owner.execute("SELECT make_partitions(partitioned + 1) FROM log_head")
    owners = await owner.fetch(
        "SELECT DISTINCT relnamespace::regnamespace::text, relowner::regrole::text FROM pg_class"
        " WHERE relispartition AND relkind = 'r'"
    )
    await owner.close()
    assert values(owners) == [("public", OWNER)]


async def test_a_session_of_ours_calls_no_function_of_another_role(store: Store) -> None:
    """One that the projector makes, and that fits a call better than ours does, stays unseen."""
    projector = await asyncpg.connect(store.dsn(PROJECTOR))
    await projector.execute(
        "CREATE FUNCTION projected.request_promotion(unknown_name varchar) RETURNS integer"
        " LANGUAGE sql RETURN 666"
    )
    receiver = await Database(store.urls.receiving, pool_connections=1).connect()
    found = await receiver.fetchval("SELECT request_promotion('gift_cards'::varchar)")
    await receiver.close()
    await projector.execute("DROP FUNCTION projected.request_promotion(varchar)")
    await projector.close()
    assert found is None


async def test_a_second_start_grants_nothing_again(store: Store) -> None:
    connection = await asyncpg.connect(store.urls.owner)
    before = await connection.fetchval("SELECT txid_current()")
    await grant_privileges(connection, apart=True)
    assert await connection.fetchval("SELECT txid_current()") == before + 1
    await connection.close()


async def test_a_url_of_another_role_is_refused(store: Store) -> None:
    urls = Urls(store.urls.owner, store.dsn(PROJECTOR), store.urls.projecting)
    with pytest.raises(PostgresError, match=f"as {PROJECTOR}, not as {RECEIVER}"):
        await prepare(SETTINGS, urls)


async def test_a_wrong_password_is_told_with_the_setting_that_has_it(store: Store) -> None:
    wrong = re.sub("//([^:@]*)[^@]*@", r"//\1:wrong@", store.dsn(PROJECTOR)).partition("&passfile")[
        0
    ]
    urls = Urls(store.urls.owner, store.urls.receiving, wrong)
    with pytest.raises(
        PostgresError, match=r"authentication failed.*Check LOOPLEDGER_PROJECTING_URL"
    ):
        await prepare(SETTINGS, urls)


async def test_a_member_of_a_role_may_act_as_it(store: Store) -> None:
    await store.execute("DROP ROLE IF EXISTS somebody")
    await store.execute("CREATE ROLE somebody LOGIN PASSWORD 'once'")
    await store.execute(f"GRANT {RECEIVER} TO somebody")
    await store.execute(f"ALTER ROLE somebody SET role = {RECEIVER}")
    dsn = re.sub("//[^@]*@", "//somebody:once@", store.dsn(RECEIVER))
    connection = await asyncpg.connect(dsn.partition("&passfile")[0])
    await check_role(connection, "LOOPLEDGER_RECEIVING_URL", RECEIVER)
    await connection.close()
    await store.execute("DROP ROLE somebody")


async def test_a_database_in_use_is_given_to_its_owner_as_documented(server: PairServer) -> None:
    """By the statements as they are written, but for the names of the database and of who used it."""
    used = store_on(server, "used")
    await server.execute(f"CREATE ROLE before LOGIN PASSWORD '{PASSWORD}'")
    await server.execute("CREATE DATABASE used OWNER before")
    await fill(Urls(*[used.dsn("before")] * 3))
    database, objects = takeover_statements()
    create, *rights = [one for one in documented_statements() if "DATABASE loopledger" in one]
    assert "CREATE DATABASE" in create
    for statement in [*rights, database]:
        await server.execute(statement.replace("DATABASE loopledger", "DATABASE used"))
    await used.execute(objects.replace("<the user so far>", "before"))
    await fill(used.urls)
    reader = await asyncpg.connect(used.dsn(READER))
    assert await reader.fetchval("SELECT code FROM gift_cards") == "****1234"
    await reader.close()


def test_a_server_with_a_url_for_each_role_gives_a_worker_its_own_alone(
    store: Store, data_dir: Path
) -> None:
    server = ServerProcess(
        data_dir,
        environ={
            "DATABASE_URL": with_password(store.urls.owner),
            "LOOPLEDGER_RECEIVING_URL": with_password(store.urls.receiving),
            "LOOPLEDGER_PROJECTING_URL": with_password(store.urls.projecting),
        },
    )
    try:
        position = server.deliver("l-1")
        page = patiently(lambda: server.get(f"/v1/locations?at_least={position}"))
        assert [item["id"] for item in page["items"]] == ["l-1"]
        for role, url in (("http", store.urls.receiving), ("projecting", store.urls.projecting)):
            (pid,) = server.workers(role)
            environ = psutil.Process(pid).environ()
            assert environ["DATABASE_URL"] == with_password(url)
            assert not {"LOOPLEDGER_RECEIVING_URL", "LOOPLEDGER_PROJECTING_URL"} & set(environ)
            assert with_password(store.urls.owner) not in environ.values()
    finally:
        assert server.stop() == 0
    for event in ("one_role", "known_head_not_kept"):
        assert event not in server.output()


def test_one_url_for_a_role_asks_for_the_other(store: Store) -> None:
    found = failed_start(
        {"DATABASE_URL": store.urls.owner, "LOOPLEDGER_RECEIVING_URL": store.urls.receiving}
    )
    assert found.returncode == 1
    assert "projecting_url" in found.stderr
