"""Distributing: the log and every generation, by stream, over the machines of a Citus cluster.

What belongs to one stream lies on one machine: its events, its state, its timeline, its postings. The head, the
registry, the quarantine and the rejections stay on the coordinator. docs/scaling.md says what that buys and costs.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import asyncpg

from eventstore.distribution.queries import QUERIES
from eventstore.errors import PostgresError
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection
from eventstore.postgres.failures import describe
from eventstore.postgres.schema import NO_LIMIT, has_citus, is_distributed, lock_schema

if TYPE_CHECKING:
    from asyncpg import Connection, Record

OLDEST_CITUS = 12


async def check_cluster(connection: "Connection[Record]") -> None:
    """See that this is the coordinator of a Citus cluster. Raises PostgresError."""
    if not await has_citus(connection):
        raise PostgresError(
            problem="this database has no Citus extension; only a Citus cluster can be distributed to",
            remedy="docs/scaling.md tells what else there is where one machine is not enough.",
        )
    ((version, coordinator),) = await connection.fetch(QUERIES["citus"])
    found = re.search(r"\d+", version)
    if found is None or int(found[0]) < OLDEST_CITUS:
        raise PostgresError(
            problem=f"the cluster runs {version}", remedy=f"Loopledger needs Citus {OLDEST_CITUS}."
        )
    if not coordinator:
        raise PostgresError(
            problem="this server is a worker of its cluster",
            remedy="Point DATABASE_URL at the coordinator.",
        )


async def distribute(
    connection: "Connection[Record]",
    projections: Mapping[str, Projection[Any]],
    *,
    dry_run: bool = False,
) -> list[str]:
    """Distribute what is not distributed yet, in one transaction; returns the statements, which `dry_run` only lists.

    Raises PostgresError; then nothing was changed.
    """
    if not dry_run and (sessions := await connection.fetchval(QUERIES["other_sessions"])):
        raise PostgresError(
            problem=f"{sessions} sessions of Loopledger servers are open",
            remedy="Stop every server first: its sessions plan as if the log lay on one machine.",
        )
    try:
        async with connection.transaction():
            await lock_schema(connection)
            statements = await _statements(connection, projections)
            if not dry_run:
                for statement in statements:
                    await connection.execute(statement, timeout=NO_LIMIT)
    except asyncpg.PostgresError as error:
        raise PostgresError(
            problem=f"the log could not be distributed: {describe(error)}",
            remedy="Nothing was changed.",
        ) from error
    return statements


async def _statements(
    connection: "Connection[Record]", projections: Mapping[str, Projection[Any]]
) -> list[str]:
    """The statements for what is not distributed yet."""
    statements: list[str] = []
    if not await is_distributed(connection):
        names = ("stop_appends", "drop_key", "create_key", "distribute_log")
        statements += [QUERIES[name] for name in names]
    for name, generation in await connection.fetch(QUERIES["list_generations"]):
        # One of a projection that is gone stays as it is: nobody folds it.
        if (projection := projections.get(name)) is not None:
            tables = GenerationTables(projection, generation)
            if not await tables.are_distributed(connection):
                statements += tables.distribute_statements(drop_views=True)
    if not statements:
        return []
    return [QUERIES["allow_triggers"], QUERIES["one_shard_after_another"], *statements]
