"""The schema: made or migrated when a server starts, and the server that holds it checked."""

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from eventstore.errors import LogCorruptedError, PostgresError
from eventstore.postgres.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

logger = structlog.get_logger()

ROOT = Path(__file__).parent.parent.parent
SCHEMA = ROOT / "schema.sql"
MIGRATIONS = ROOT / "migrations"
OLDEST_MAJOR = 15


async def set_up_schema(connection: "Connection[Record]") -> None:
    """Make the schema, or apply the migrations it lacks. Safe when two servers do it at once. Raises PostgresError."""
    migrations = all_migrations()
    newest = max(migrations)
    async with connection.transaction():
        await lock_schema(connection)
        if not await connection.fetchval(QUERIES["has_schema"]):
            await connection.execute(SCHEMA.read_text("utf-8"))
            for version in migrations:
                await connection.execute(QUERIES["record_version"], version)
            logger.info("schema_created", message="The schema was created.", version=newest)
            return
        version = await connection.fetchval(QUERIES["schema_version"])
        if version > newest:
            raise PostgresError(
                problem=f"the database has schema version {version}, this Loopledger knows up to {newest}",
                remedy="Run the Loopledger that wrote it, or a newer one.",
            )
        for number, file in migrations.items():
            if number > version:
                await migrate(connection, number, file)


async def lock_schema(connection: "Connection[Record] | PoolConnectionProxy[Record]") -> None:
    """Let one server at a time change tables, until the transaction ends."""
    await connection.execute(QUERIES["lock_schema"])


def all_migrations() -> dict[int, Path]:
    """The migrations by number, in order."""
    return {int(file.name.split("_")[0]): file for file in sorted(MIGRATIONS.glob("*.sql"))}


async def migrate(connection: "Connection[Record]", number: int, file: Path) -> None:
    """Apply one migration. The caller holds the transaction."""
    await connection.execute(file.read_text("utf-8"))  # noqa: ASYNC240 - a small file, once
    await connection.execute(QUERIES["record_version"], number)
    logger.info(
        "schema_migrated", message="The schema was migrated.", version=number, file=file.name
    )


async def check_server(connection: "Connection[Record]") -> None:
    """See that the server is new enough and keeps what it commits. Raises PostgresError."""
    if await connection.fetchval(QUERIES["fsync"]) == "off":
        raise PostgresError(
            problem="the server runs with fsync = off, so that a 200 would promise nothing",
            remedy="Set fsync = on.",
        )
    major = connection.get_server_version().major
    if major < OLDEST_MAJOR:
        raise PostgresError(
            problem=f"the server is Postgres {major}",
            remedy=f"Loopledger needs Postgres {OLDEST_MAJOR} or newer.",
        )


async def check_head(connection: "Connection[Record]") -> None:
    """See that the head is where the events end. Raises LogCorruptedError."""
    row = await connection.fetchrow(QUERIES["check_head"])
    if row is None or row["head"] != row["newest"]:
        found = (
            "no head row" if row is None else f"head {row['head']}, newest event {row['newest']}"
        )
        raise LogCorruptedError(problem=found)
