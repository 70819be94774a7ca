"""The command `loopledger distribute`: spread the log and the states over the machines of a Citus cluster."""

import argparse
import asyncio
import os

from commands._http import run_reporting
from commands._screen import Output, Screen, add_json, standard_screen
from eventstore.distribution.distributing import check_cluster, distribute
from eventstore.errors import PostgresError
from eventstore.postgres.database import Database
from projections import load_projections
from runtime.wiring import settings_from

HELP = "spread the log and the states over a Citus cluster (docs/scaling.md)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger distribute`."""
    parser.add_argument("--dry-run", action="store_true", help="print the SQL, and change nothing")
    add_json(parser)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Run the command; gives back the exit code."""
    return run_reporting(screen or standard_screen(), lambda: _run(given), as_json=given.json)


def _run(given: argparse.Namespace) -> Output:
    dsn = settings_from(os.environ).database_url
    if dsn is None:
        raise PostgresError(
            problem="the embedded Postgres has no Citus extension",
            remedy="Set DATABASE_URL to the coordinator of a Citus cluster.",
        )
    statements = asyncio.run(_distribute(dsn, dry_run=given.dry_run))
    lines = [f"{statement};\n" for statement in statements]
    if not given.dry_run:
        lines.append("The log and the states are distributed. Start the servers again.")
    return Output({"statements": statements, "dry_run": given.dry_run}, "\n".join(lines))


async def _distribute(dsn: str, *, dry_run: bool) -> list[str]:
    database = Database(dsn, pool_connections=1)
    connection = await database.connect_or_explain()
    try:
        await check_cluster(connection)
        if not dry_run:
            # This makes the schema, or brings it up to date.
            await database.open()
            await database.close()
        return await distribute(connection, load_projections(), dry_run=dry_run)
    finally:
        await connection.close()
