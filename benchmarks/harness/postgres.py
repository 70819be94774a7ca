"""The Postgres servers under what is measured, and connections to them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import psutil

from benchmarks.harness.command import fail
from benchmarks.harness.server_process import postmaster_pid
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.roles import ADMIN

if TYPE_CHECKING:
    from asyncpg import Connection, Record


class Postgres(msgspec.Struct, frozen=True):
    """A Postgres that runs."""

    dsn: str
    process: psutil.Process


def parameters_of(dsn: str) -> dict[str, str]:
    """The URL of a database of an embedded Postgres in parts: dbname, host, port, user and password."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    return {
        "dbname": parts.path.strip("/"),
        "host": query["host"][0],
        "port": query["port"][0],
        "user": parts.username or "",
        "password": Path(query["passfile"][0]).read_text("utf-8").strip().rpartition(":")[2],
    }


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["Connection[Record]"]:
    """A connection, closed afterwards."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def postgres_in(data_dir: Path) -> psutil.Process:
    """The Postgres that runs in a data directory of Loopledger. Raises BenchmarkError if none does."""
    try:
        return psutil.Process(postmaster_pid(data_dir))
    except (OSError, ValueError, IndexError, psutil.Error) as error:
        fail(f"no Postgres runs in {data_dir}: {error}")


async def start_postgres(stack: AsyncExitStack, data_dir: Path) -> Postgres:
    """Start an embedded Postgres that loses nothing. Raises BenchmarkError if it would."""
    embedded = await stack.enter_async_context(EmbeddedPostgres(data_dir))
    async with connected(embedded.dsn_for(ADMIN)) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if (value := await connection.fetchval(f"SHOW {setting}")) != "on":
                fail(f"{setting} is {value}: only durable servers are compared")
    return Postgres(embedded.dsn_for(ADMIN), postgres_in(data_dir))
