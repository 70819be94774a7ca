import asyncio
import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psutil
import pytest
from structlog.testing import capture_logs

from eventstore.errors import PostgresError
from eventstore.postgres import cluster, embedded
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.processes import postgres_in
from tests.support import ROOT

USER = "nobody"
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs Postgres as somebody else")


class Server(NamedTuple):
    """A child process that runs an embedded Postgres, and what it said once it ran."""

    process: subprocess.Popen[str]
    said: dict[str, Any]


Serve = Callable[..., Server]


@contextlib.contextmanager
def make_place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ll-")).resolve()
    directory.chmod(0o711)
    yield directory
    for pgdata in directory.rglob("postgres*"):
        for process in postgres_in(pgdata):
            process.kill()
    shutil.rmtree(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that Postgres's user may enter, unlike pytest's own."""
    with make_place() as directory:
        yield directory


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory after its first start and stop: copying it is quicker than an initdb."""
    with make_place() as directory:
        asyncio.run(start_and_stop(directory / "data"))
        yield directory / "data"


def copy(template: Path, place: Path) -> Path:
    subprocess.run(["/bin/cp", "-pR", template, place], check=True)
    return place / "data"


@pytest.fixture
def data(place: Path, template: Path) -> Path:
    return copy(template, place)


@pytest.fixture(scope="module")
def shared(template: Path) -> Iterator[EmbeddedPostgres]:
    """A server for the tests that only look."""
    with make_place() as directory:
        server = EmbeddedPostgres(copy(template, directory))
        asyncio.run(server.start())
        yield server
        asyncio.run(server.stop())


@pytest.fixture
async def postgres(data: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(data) as server:
        yield server


async def start_and_stop(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir):
        pass


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        process = subprocess.Popen([str(each) for each in arguments], text=True, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def serve(spawn: Callable[..., subprocess.Popen[str]]) -> Serve:
    def start(data_dir: Path, *user: str, wait: bool = True) -> Server:
        process = spawn(
            sys.executable,
            ROOT / "tests" / "support" / "embedded_server.py",
            data_dir,
            *user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        if not wait:
            return Server(process, {})
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the server ended without a word"
        return Server(process, json.loads(line))

    return start


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(dsn: str, query: str) -> Any:  # noqa: ANN401
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def write(dsn: str) -> None:
    await execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")


async def read(dsn: str) -> Any:  # noqa: ANN401
    return await fetch(dsn, "SELECT answer FROM kept")


async def eventually(attempt: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(300):
        if await attempt():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not come to pass within 15 seconds")


async def comes_back(postgres: EmbeddedPostgres, killed: int) -> None:
    async def answers() -> bool:
        try:
            return postgres.postmaster_pid not in {None, killed} and await read(postgres.dsn) == 42
        except (OSError, asyncpg.PostgresError):
            return False

    await eventually(answers)


def kill(pid: int | None, number: int = signal.SIGKILL) -> int:
    assert pid is not None
    os.kill(pid, number)
    return pid


def named(data: Path, what: str) -> list[psutil.Process]:
    """The processes of a server that do this, as Postgres writes it in their names."""
    found = []
    for process in postgres_in(data / "postgres"):
        with contextlib.suppress(psutil.Error):
            if f"postgres: {what}" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def ended(pid: int) -> None:
    async def gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await eventually(gone)


async def test_a_started_server_answers(shared: EmbeddedPostgres) -> None:
    assert await fetch(shared.dsn, "SELECT current_user || '@' || current_database()") == (
        "loopledger@loopledger"
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
    elsewhere = postgres.dsn.replace("@/loopledger", "@/postgres")
    await postgres.stop()
    await postgres.start()
    await execute(elsewhere, "DROP DATABASE loopledger")
    await postgres.stop()
    await postgres.start()
    assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_a_server_that_cannot_start_says_why(data: Path) -> None:
    (data / "postgres" / "postgresql.auto.conf").write_text("no such setting\n")
    with pytest.raises(PostgresError, match=r"status 1 .*syntax error"):
        await EmbeddedPostgres(data).start()


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


async def test_an_ordinary_user_runs_it_as_themselves(place: Path, serve: Serve) -> None:
    data_dir = place / "own"
    data_dir.mkdir()
    if IS_ROOT:
        shutil.chown(data_dir, USER)
    server = serve(data_dir, *([USER] if IS_ROOT else []))
    uid = pwd.getpwnam(USER).pw_uid if IS_ROOT else os.geteuid()
    assert server.said["uid"] == uid
    assert psutil.Process(server.said["postmaster"]).uids().real == uid
    assert await fetch(server.said["dsn"], "SELECT 1") == 1
    server.process.communicate()
    assert server.process.returncode == 0
    assert not psutil.pid_exists(server.said["postmaster"])


async def test_a_directory_that_cannot_be_written_to_is_refused(place: Path, serve: Serve) -> None:
    (place / "data").mkdir(mode=0o555)
    server = serve(place / "data", *([USER] if IS_ROOT else []))
    assert "Permission denied" in server.said["error"]
    assert str(place / "data") in server.said["error"]


@only_root
async def test_as_root_it_runs_as_an_unprivileged_user(shared: EmbeddedPostgres) -> None:
    process = psutil.Process(shared.postmaster_pid)
    assert process.uids().real == process.uids().saved == pwd.getpwnam(USER).pw_uid
    assert process.gids().real == process.gids().saved == pwd.getpwnam(USER).pw_gid


@only_root
async def test_as_root_a_directory_that_bars_the_way_is_named(place: Path) -> None:
    """And is left as it is."""
    (place / "closed").mkdir(mode=0o700)
    with pytest.raises(PostgresError, match=rf"may not enter {place}/closed\. .*LOOPLEDGER_DATA_D"):
        await EmbeddedPostgres(place / "closed" / "data").start()
    assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o700
    assert list((place / "closed").iterdir()) == []


@only_root
async def test_as_root_an_unprivileged_user_must_exist(place: Path) -> None:
    for name in ("no-such-user", "root"):
        with pytest.raises(PostgresError, match=f"no unprivileged user '{name}'"):
            await EmbeddedPostgres(place, run_as=name).start()
