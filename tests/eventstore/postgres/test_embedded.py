"""The embedded Postgres: started, stopped, and what it promises."""

import asyncio
import importlib.util
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
import psutil
import pytest

from eventstore.errors import PostgresError
from eventstore.postgres import cluster
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.processes import postgres_in
from tests.support.embedded import execute, fetch, kill, read, write


async def test_a_started_server_answers(shared: EmbeddedPostgres) -> None:
    assert await fetch(shared.dsn, "SELECT current_user || '@' || current_database()") == (
        "loopledger_owner@loopledger"
    )
    assert shared.postmaster_pid is not None


async def test_what_makes_a_commit_durable_is_on(shared: EmbeddedPostgres) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert await fetch(shared.dsn, f"SHOW {setting}") == "on"


async def test_text_does_not_depend_on_the_system(shared: EmbeddedPostgres) -> None:
    """The encoding is UTF-8, and the collation is built into Postgres."""
    query = "SELECT format('%s %s', datlocprovider, datlocale) FROM pg_database"
    assert await fetch(shared.dsn, f"{query} WHERE datname = 'loopledger'") == "b C.UTF-8"
    assert await fetch(shared.dsn, "SHOW server_encoding") == "UTF8"


async def test_nobody_else_can_enter(shared: EmbeddedPostgres) -> None:
    assert await fetch(shared.dsn, "SHOW listen_addresses") == ""
    data_dir = shared._cluster.data_dir
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / "socket").stat().st_mode) == 0o700
    assert stat.S_IMODE(shared._cluster.log_file.stat().st_mode) == 0o600


async def test_values_do_not_reach_the_log(shared: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidTextRepresentationError, match="card number"):
        await execute(shared.dsn, "SELECT 'card number'::int")
    assert "card number" not in shared._cluster.log_file.read_text()


async def test_a_second_start_keeps_what_was_written(place: Path) -> None:
    """The first start, of an empty place, makes the cluster."""
    postgres = EmbeddedPostgres(place / "data")
    async with postgres:
        await write(postgres.dsn)
    assert postgres.postmaster_pid is None
    async with postgres:
        assert await read(postgres.dsn) == 42


@pytest.mark.parametrize("name", ["space 100%25 größe", 'comma, "quote"'])
async def test_any_path_will_do(place: Path, data: Path, name: str) -> None:
    await asyncio.to_thread(data.rename, place / name)
    async with EmbeddedPostgres(place / name) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_a_path_too_long_for_a_socket_gets_a_private_directory_elsewhere(place: Path) -> None:
    """It is removed at the end."""
    postgres = EmbeddedPostgres(place / ("x" * 60) / ("y" * 60))
    async with postgres:
        socket_dir = postgres._cluster.socket_dir
        assert socket_dir is not None
        assert socket_dir.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        assert await fetch(postgres.dsn, "SELECT 1") == 1
    assert not socket_dir.exists()


async def test_a_directory_has_one_server(postgres: EmbeddedPostgres) -> None:
    """The second says who has it, and the first goes on."""
    with pytest.raises(PostgresError, match=rf"another Loopledger \(pid {os.getpid()}\)"):
        await EmbeddedPostgres(postgres._cluster.data_dir).start()
    assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_another_major_version_is_refused(place: Path) -> None:
    (place / "postgres").mkdir()
    (place / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresError, match=r"by Postgres 17, .* is Postgres 18.* DATABASE_URL"):
        await EmbeddedPostgres(place).start()


async def test_a_platform_without_binaries_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PostgresError, match=r"no Postgres binaries .* DATABASE_URL"):
        await EmbeddedPostgres(place).start()


async def test_a_server_that_cannot_start_says_why(data: Path) -> None:
    (data / "postgres" / "postgresql.auto.conf").write_text("no such setting\n")
    with pytest.raises(PostgresError, match=r"status 1 .*syntax error"):
        await EmbeddedPostgres(data).start()


async def test_a_log_that_has_grown_large_is_put_aside(data: Path) -> None:
    (data / "postgres.log").write_bytes(b"x" * (cluster.LOG_BYTES + 1))
    async with EmbeddedPostgres(data) as postgres:
        assert postgres._cluster.log_file.stat().st_size < 10_000
    assert (data / "postgres.log.1").stat().st_size == cluster.LOG_BYTES + 1


async def test_stopping_ends_in_time_even_if_postgres_hangs(data: Path) -> None:
    """And nothing that was committed is lost."""
    async with EmbeddedPostgres(data, stop_seconds=0.3) as postgres:
        await write(postgres.dsn)
        kill(postgres.postmaster_pid, signal.SIGSTOP)
        began = time.monotonic()
        await postgres.stop()
        assert time.monotonic() - began < 0.3 + 2 + 1
    async with EmbeddedPostgres(data) as postgres:
        assert await read(postgres.dsn) == 42


async def start_and_stay(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    await asyncio.Event().wait()


async def test_a_start_that_is_cancelled_leaves_nothing_running(place: Path) -> None:
    for seconds in (0.05, 0.3):
        postgres = EmbeddedPostgres(place)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(start_and_stay(postgres), seconds)
        await postgres.stop()
        assert postgres_in(place / "postgres") == []
    async with EmbeddedPostgres(place) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("end", ["closed", "idle", "running"])
def test_another_event_loop_may_stop_it(data: Path, end: str) -> None:
    loop = asyncio.new_event_loop()
    postgres = EmbeddedPostgres(data)
    loop.run_until_complete(postgres.start())
    pid = postgres.postmaster_pid
    assert pid is not None
    thread = threading.Thread(target=loop.run_forever)
    if end == "closed":
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    elif end == "running":
        thread.start()
    asyncio.run(postgres.stop())
    assert not psutil.pid_exists(pid)
    if end == "running":
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    if end != "closed":
        loop.run_until_complete(asyncio.sleep(0.01))
        assert asyncio.all_tasks(loop) == set()
        loop.close()


async def test_a_file_in_place_of_the_directory_is_refused(place: Path) -> None:
    (place / "data").touch()
    with pytest.raises(PostgresError, match=r"Not a directory.* LOOPLEDGER_DATA_DIR"):
        await EmbeddedPostgres(place / "data").start()


def segments(data: Path) -> list[Path]:
    """The files of write-ahead log below a data directory."""
    return [each for each in (data / "postgres" / "pg_wal").iterdir() if each.is_file()]


async def test_a_new_database_has_its_write_ahead_log_ready_and_keeps_it(place: Path) -> None:
    data = place / "data"
    for _ in range(2):
        async with EmbeddedPostgres(data, wal_ready_mib=128) as postgres:
            assert await fetch(postgres.dsn, "SHOW min_wal_size") == "128MB"
            assert 8 <= len(segments(data)) <= 10


async def test_a_disk_with_little_room_is_not_filled_with_write_ahead_log(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(place)._replace(free=100 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    async with EmbeddedPostgres(place / "data", wal_ready_mib=128) as postgres:
        assert await fetch(postgres.dsn, "SHOW min_wal_size") == "80MB"
        assert len(segments(place / "data")) <= 2
