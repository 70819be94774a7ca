"""Embedded servers for tests that start, kill and look at them."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psutil
import pytest

from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.processes import postgres_in

USER = "nobody"

IS_ROOT = os.geteuid() == 0


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


def copy(template: Path, place: Path) -> Path:
    subprocess.run(["/bin/cp", "-pR", template, place], check=True)
    return place / "data"


async def start_and_stop(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir):
        pass


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
