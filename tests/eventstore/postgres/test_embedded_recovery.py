"""The embedded Postgres after a kill: it comes back, and whoever is in its way goes or is let alone."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from structlog.testing import capture_logs

from eventstore.postgres import embedded
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.roles import ADMIN
from tests.support.embedded import (
    IS_ROOT,
    USER,
    Serve,
    comes_back,
    ended,
    eventually,
    execute,
    fetch,
    kill,
    named,
    read,
    write,
)


async def test_a_killed_postmaster_comes_back_by_itself(postgres: EmbeddedPostgres) -> None:
    """Twice: committed rows are there each time, under the same URL."""
    await write(postgres.dsn)
    for _ in range(2):
        await comes_back(postgres, kill(postgres.postmaster_pid))


async def test_a_recovery_whose_process_is_killed_is_begun_again(
    postgres: EmbeddedPostgres, data: Path
) -> None:
    async def recovery() -> psutil.Process:
        while not (found := named(data, "startup")):  # noqa: ASYNC110 - Postgres sends no word of it
            await asyncio.sleep(0.001)
        return found[0]

    await write(postgres.dsn)
    for _ in range(3):
        postmaster = postgres.postmaster_pid
        (checkpointer,) = named(data, "checkpointer")
        checkpointer.kill()
        with contextlib.suppress(psutil.NoSuchProcess, TimeoutError):
            async with asyncio.timeout(5):
                (await recovery()).kill()
        assert postmaster is not None
        await comes_back(postgres, postmaster)


async def test_each_failure_to_come_back_is_reported(postgres: EmbeddedPostgres) -> None:
    """And it is tried again for as long as it fails."""
    await write(postgres.dsn)
    configuration = postgres._cluster.data_dir / "postgres" / "postgresql.auto.conf"
    configuration.write_text("no such setting\n")

    async def failed_twice() -> bool:
        return [each["log_level"] for each in logs].count("error") >= 2

    with capture_logs() as logs:
        killed = kill(postgres.postmaster_pid)
        await eventually(failed_twice)
    assert "syntax error" in next(each["problem"] for each in logs if each["log_level"] == "error")
    configuration.write_text("")
    await comes_back(postgres, killed)


async def test_an_orphaned_postmaster_is_taken_over(data: Path, serve: Serve) -> None:
    server = serve(data)
    await write(server.said["dsn"])
    server.process.kill()
    server.process.wait()
    assert psutil.Process(server.said["postmaster"]).name() == "postgres"
    async with EmbeddedPostgres(data) as postgres:
        assert postgres.postmaster_pid != server.said["postmaster"]
        assert await read(postgres.dsn) == 42
        await ended(server.said["postmaster"])


async def test_a_server_killed_with_its_postmaster_recovers(data: Path, serve: Serve) -> None:
    server = serve(data)
    await write(server.said["dsn"])
    server.process.kill()
    server.process.wait()
    kill(server.said["postmaster"])
    async with EmbeddedPostgres(data) as postgres:
        assert await read(postgres.dsn) == 42


async def test_an_orphaned_backend_that_never_looks_up_is_ended(data: Path, serve: Serve) -> None:
    server = serve(data)
    await write(server.said["dsn"])
    connection = await asyncpg.connect(server.said["dsn"])
    backend = connection.get_server_pid()
    busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1e11)"))
    await asyncio.sleep(0.2)
    server.process.kill()
    server.process.wait()
    kill(server.said["postmaster"])
    async with EmbeddedPostgres(data) as postgres:
        await ended(backend)
        assert await read(postgres.dsn) == 42
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await busy


@pytest.mark.parametrize("cwd", ["/", "postgres"])
async def test_a_process_that_has_a_stale_pid_by_now_is_let_alone(
    data: Path, spawn: Callable[..., subprocess.Popen[str]], cwd: str
) -> None:
    """Postgres itself would refuse to start: the process is alive and of the same user."""
    user = USER if IS_ROOT else None
    sleeper = spawn("/bin/sh", "-c", "exec sleep 60", cwd=data / cwd, user=user)
    for file in ("postgres/postmaster.pid", "socket/.s.PGSQL.5432.lock"):
        lines = (sleeper.pid, data / "postgres", 0, 5432, "", "", "", "ready")
        (data / file).write_text("".join(f"{each}\n" for each in lines))
        if IS_ROOT:
            shutil.chown(data / file, USER)
    async with EmbeddedPostgres(data) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1
    assert sleeper.poll() is None


async def test_a_pid_file_of_rubbish_is_no_obstacle(data: Path) -> None:
    (data / "postgres" / "postmaster.pid").write_text("rubbish\n")
    async with EmbeddedPostgres(data) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_an_initdb_killed_half_way_leaves_nothing(place: Path, serve: Serve) -> None:
    server = serve(place, wait=False)

    async def begun() -> bool:
        return (place / "postgres.new" / "base").exists()

    await eventually(begun)
    server.process.kill()
    server.process.wait()
    assert not (place / "postgres").exists()
    async with EmbeddedPostgres(place) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1
    assert not (place / "postgres.new").exists()


async def test_a_crash_between_initdb_and_the_database_is_survived(
    postgres: EmbeddedPostgres,
) -> None:
    elsewhere = postgres.dsn_for(ADMIN).replace("@/loopledger", "@/postgres")
    await postgres.stop()
    await postgres.start()
    await execute(elsewhere, "DROP DATABASE loopledger")
    await postgres.stop()
    await postgres.start()
    assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_a_long_recovery_is_waited_for_and_reported(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = asyncpg.connect, iter(range(8))

    async def connect(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if next(refusals, None) is not None:
            message = "the database system is starting up"
            raise asyncpg.CannotConnectNowError(message)
        return await real(*arguments, **options)

    monkeypatch.setattr(asyncpg, "connect", connect)
    monkeypatch.setattr(embedded, "REPORT_SECONDS", 0.2)
    with capture_logs() as logs:
        async with EmbeddedPostgres(data) as postgres:
            assert await fetch(postgres.dsn, "SELECT 1") == 1
    assert "postgres_recovering" in [each["event"] for each in logs]
