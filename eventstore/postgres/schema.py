"""The schema: made or migrated when a server starts, and the server that holds it checked."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog

from eventstore.errors import PostgresError
from eventstore.postgres.failures import describe
from eventstore.postgres.queries import QUERIES
from eventstore.tasks import Backoff, raise_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncpg import Connection, PostgresLogMessage, Record
    from asyncpg.pool import PoolConnectionProxy

logger = structlog.get_logger()

ROOT = Path(__file__).parent.parent.parent
SCHEMA = ROOT / "schema.sql"
MIGRATIONS = ROOT / "migrations"
OLDEST_MAJOR = 15

# Seconds: for a statement that may take as long as it has to, and between two messages of how far it is.
NO_LIMIT = 7 * 86_400.0
PROGRESS_SECONDS = 5.0
PROGRESS_WORDS = 3

# Seconds between tries to change a table while others hold a lock on it: the first, doubled up to the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

# How many events a migration rewrites each second, about: for the first guess of how long it will take.
MIGRATED_PER_SECOND = 25_000


async def set_up_schema(connection: "Connection[Record]") -> None:
    """Make the schema, or apply the migrations it lacks. Safe when two servers do it at once. Raises PostgresError."""
    newest = max(all_migrations())
    # Mostly there is nothing to do, and nothing to wait for.
    while (version := await _schema_version(connection)) < newest:
        what = "create the schema" if not version else f"migrate the schema from version {version}"
        await change_patiently(connection, _change_schema, what)
    if version > newest:
        raise PostgresError(
            problem=f"the database has schema version {version}, this Loopledger knows up to {newest}",
            remedy="Run the Loopledger that wrote it, or a newer one.",
        )


async def _schema_version(connection: "Connection[Record]") -> int:
    """The newest migration applied; 0 in an empty database. Raises PostgresError where the log is out of sight."""
    if not await connection.fetchval(QUERIES["has_schema"]):
        if schema := await connection.fetchval(QUERIES["find_schema"]):
            raise PostgresError(
                problem=f"the log is in the schema {schema}, which is not on the search path of Loopledger",
                remedy=f"Add ?search_path={schema} to DATABASE_URL.",
            )
        return 0
    version: int = await connection.fetchval(QUERIES["schema_version"])
    return version


async def _change_schema(connection: "Connection[Record]") -> None:
    """Create the schema, or apply the next migration, unless somebody has done so by now."""
    version, migrations = await _schema_version(connection), all_migrations()
    if not version:
        await connection.execute(SCHEMA.read_text("utf-8"))
        for number in migrations:
            await connection.execute(QUERIES["record_version"], number)
        logger.info("schema_created", message="The schema was created.", version=max(migrations))
    elif later := [number for number in migrations if number > version]:
        await migrate(connection, later[0], migrations[later[0]])


async def change_patiently(
    connection: "Connection[Record]",
    change: "Callable[[Connection[Record]], Awaitable[None]]",
    what: str,
    on_wait: "Callable[[str], Awaitable[None]] | None" = None,
) -> None:
    """Do `change` in a transaction, one server at a time; again from the start while others hold a lock that it needs.

    Whoever waits for a lock on a table holds up all who come later, so it is waited for only shortly. `what` it is
    that waits stands in the log, and `on_wait` is told why it does.
    """
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    reported = time.monotonic()
    while True:
        try:
            async with connection.transaction():
                await connection.execute(QUERIES["limit_turn_wait"])
                await connection.execute(QUERIES["lock_schema"])
                await connection.execute(QUERIES["limit_lock_wait"])
                await change(connection)
        except asyncpg.LockNotAvailableError as error:
            raise_if_cancelled()
            if time.monotonic() >= reported:
                reported = time.monotonic() + PROGRESS_SECONDS
                logger.warning(
                    "schema_waiting",
                    message="Tables are to be changed, and others hold a lock on them; trying again.",
                    what=what,
                    error=describe(error),
                )
                if on_wait is not None:
                    await on_wait(describe(error))
            await asyncio.sleep(backoff.next_pause())
        else:
            return


async def lock_schema(connection: "Connection[Record] | PoolConnectionProxy[Record]") -> None:
    """Let one server at a time change tables, until the transaction ends."""
    await connection.execute(QUERIES["lock_schema"], timeout=NO_LIMIT)


def all_migrations() -> dict[int, Path]:
    """The migrations by number, in order. Raises ValueError if two have one number."""
    files = sorted(MIGRATIONS.glob("*.sql"))
    migrations = {int(file.name.split("_")[0]): file for file in files}
    if len(migrations) < len(files):
        message = "two migrations have the same number"
        raise ValueError(message)
    return migrations


async def migrate(connection: "Connection[Record]", number: int, file: Path) -> None:
    """Apply one migration, however long it takes. The caller holds the transaction.

    One that takes long says how far it is: INFO "progress <done> <of how many>", first of all with 0 done.
    """
    progress = Progress(number)
    connection.add_log_listener(progress.on_message)
    try:
        await connection.execute(file.read_text("utf-8"), timeout=NO_LIMIT)  # noqa: ASYNC240 - a small file, once
    finally:
        connection.remove_log_listener(progress.on_message)
    await connection.execute(QUERIES["record_version"], number)
    logger.info(
        "schema_migrated", message="The schema was migrated.", version=number, file=file.name
    )


class Progress:
    """Logs how far a migration is, as it says so itself."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._begun = time.monotonic()
        self._logged = 0.0

    def on_message(self, _: object, message: "PostgresLogMessage") -> None:
        """Take a message of the server."""
        words = (message.message or "").split()
        if len(words) != PROGRESS_WORDS or words[0] != "progress":
            return
        done, total = int(words[1]), int(words[2])
        now = time.monotonic()
        if not done:
            self._begun = self._logged = now
            left = total / MIGRATED_PER_SECOND
        elif done == total or now - self._logged >= PROGRESS_SECONDS:
            self._logged = now
            left = (now - self._begun) / done * (total - done)
        else:
            return
        logger.info(
            "schema_migrating",
            message="The schema is being migrated; nothing is served until that is done.",
            version=self._number,
            done=done,
            total=total,
            percent=round(100 * done / total, 1) if total else 100.0,
            seconds_left=round(left),
        )


async def has_citus(connection: "Connection[Record]") -> bool:
    """Say whether the database has the Citus extension."""
    found: bool = await connection.fetchval(QUERIES["has_citus"])
    return found


async def is_distributed(connection: "Connection[Record]") -> bool:
    """Say whether the log is spread over the machines of a Citus cluster."""
    found: bool = await has_citus(connection) and await connection.fetchval(
        QUERIES["is_distributed"]
    )
    return found


async def check_server(connection: "Connection[Record]") -> None:
    """See that the server is new enough and keeps what it commits. Raises PostgresError."""
    if await connection.fetchval(QUERIES["fsync"]) == "off":
        raise PostgresError(
            problem="the server runs with fsync = off, so that a 200 would promise nothing",
            remedy="Set fsync = on.",
        )
    if tables := await connection.fetchval(QUERIES["unlogged_tables"]):
        raise PostgresError(
            problem=f"a crash would empty these tables, which are UNLOGGED: {tables}",
            remedy="Run ALTER TABLE ... SET LOGGED for each.",
        )
    major = connection.get_server_version().major
    if major < OLDEST_MAJOR:
        raise PostgresError(
            problem=f"the server is Postgres {major}",
            remedy=f"Loopledger needs Postgres {OLDEST_MAJOR} or newer.",
        )
