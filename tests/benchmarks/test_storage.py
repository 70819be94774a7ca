"""The log's layout: what an event takes, and its migration, which changes no event and is whole or not at all."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from benchmarks.storage import __main__ as storage
from benchmarks.storage.migration import LAYOUT, migrate_log
from benchmarks.storage.queries import QUERIES
from eventstore.postgres.schema import all_migrations, migrate, set_up_schema
from tests.conftest import Cluster

if TYPE_CHECKING:
    from collections.abc import Coroutine

EMPTY = "template1"


async def test_every_event_is_what_it_was_after_the_migration(cluster: Cluster) -> None:
    async with cluster.database(EMPTY) as url:
        connection = await asyncpg.connect(url)
        with capture_logs() as logs:
            report = await migrate_log(connection, 50_000)
        assert await connection.fetchval("SELECT count(DISTINCT body_salt) FROM events") == 50_000
        assert await connection.fetchval("SELECT partitioned FROM log_head") == 10_000_000
        await connection.close()
    assert report.after < report.before
    told = [one for one in logs if one["event"] == "schema_migrating"]
    assert told[0]["percent"] == 0
    assert told[0]["seconds_left"] >= 0
    assert told[-1]["done"] == told[-1]["total"] == 50_000


async def test_a_migration_that_is_killed_half_way_leaves_the_log_as_it_was_and_runs_again(
    cluster: Cluster,
) -> None:
    async with cluster.database(EMPTY) as url:
        connection = await asyncpg.connect(url)
        for number, file in all_migrations().items():
            if number < LAYOUT:
                await migrate(connection, number, file)
        await connection.execute(QUERIES["fill_before"], 60_000)
        await connection.execute(QUERIES["fill_head_before"], 60_000)
        digest = await connection.fetchval(QUERIES["digest"])
        victim = await asyncpg.connect(url)
        half_way = asyncio.Event()
        victim.add_log_listener(
            lambda _, message: half_way.set() if " 60000" in (message.message or "") else None
        )
        migrating = asyncio.create_task(_swallow(set_up_schema(victim)))
        await half_way.wait()
        await connection.fetchval("SELECT pg_terminate_backend($1, 5000)", victim.get_server_pid())
        assert isinstance(await migrating, asyncpg.PostgresError | asyncpg.InterfaceError | OSError)
        assert await connection.fetchval("SELECT max(version) FROM schema_versions") == LAYOUT - 1
        assert await connection.fetchval(QUERIES["digest"]) == digest
        await set_up_schema(connection)
        assert await connection.fetchval(QUERIES["digest"]) == digest
        await connection.close()


async def _swallow(work: "Coroutine[object, object, None]") -> BaseException | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return error
    return None


def test_an_event_takes_no_more_than_was_aimed_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert storage.main(["--events", "40000", "--json"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=storage.Report)
    assert report.disk <= 790
    assert report.wal <= 1000
