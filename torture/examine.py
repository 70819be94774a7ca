"""What is on record, read past the server: by SQL of our own, and for the folds by the engine's own reader."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from eventstore.limits import Limits
from eventstore.log.reader import Reader
from eventstore.postgres.database import Database
from projections import load_projections
from providers import load_providers, settings_types
from runtime.settings import load_settings
from torture.checks import (
    Counts,
    FreshFold,
    LogCheck,
    OnRecord,
    Violations,
    check_counts,
    check_quarantine,
    check_states,
)
from torture.queries import QUERIES
from torture.sender_log import MARK, SenderLog, digest_of
from web.header_block import decode_headers

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# How long the projections may take to catch up with a log that has come to rest.
CATCH_UP_SECONDS = 90.0
# How long the log must have stood still: behind a lost answer an append may still be under way.
REST_SECONDS = 0.5

PAGE = 5_000

_MARK = re.compile(rb"^%s: (\d+)\.(\d+)\r$" % MARK.encode(), re.IGNORECASE | re.MULTILINE)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["Connection[Record]"]:
    """A connection that does not wait for a server that hangs."""
    connection = await asyncpg.connect(dsn, timeout=2)
    try:
        yield connection
    finally:
        connection.terminate()


async def caught_up(dsn: str) -> bool:
    """Return once the log is at rest and every projection at its end; False if that takes too long."""
    deadline = time.monotonic() + CATCH_UP_SECONDS
    rested, head = 0.0, -1
    async with connected(dsn) as connection:
        while time.monotonic() < deadline:
            newest = await connection.fetchval(QUERIES["head"])
            if newest != head:
                head, rested = newest, time.monotonic() + REST_SECONDS
            lag = await connection.fetchval(QUERIES["lag"])
            if lag == 0 and time.monotonic() > rested:
                return True
            await asyncio.sleep(0.1)
    return False


async def examine(dsn: str, sender_log: SenderLog, violations: Violations) -> LogCheck:
    """Compare everything on record with what was sent, and every state with the log."""
    async with (
        connected(dsn) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        head = await connection.fetchval(QUERIES["head"])
        check = LogCheck(sender_log, violations)
        async for row in connection.cursor(QUERIES["events"], prefetch=PAGE):
            check.add(_on_record(row))
        check.close(head)
        folds = await _fold(dsn, head, violations)
        registered = {row["name"]: row for row in await connection.fetch(QUERIES["counts"])}
        for name, fresh in folds.items():
            if name not in registered:
                violations.add("count", f"{name} is not in the registry")
                continue
            await _examine_projection(connection, name, fresh, registered[name], violations)
    return check


async def _examine_projection(
    connection: "Connection[Record]",
    name: str,
    fresh: FreshFold,
    row: "Record",
    violations: Violations,
) -> None:
    found = Counts(row["checkpoint"], row["folded"], row["ignored"], row["quarantined"])
    check_counts(name, fresh, found, violations)
    quarantined = await connection.fetch(QUERIES["quarantine"], name, row["generation"])
    check_quarantine(name, fresh, {position for (position,) in quarantined}, violations)
    make = load_projections()[name].state
    query = QUERIES["states"].format(
        table=f"{name}_{row['generation']}", names=", ".join(make.__struct_fields__)
    )
    states = {
        stream: (position, make(*values))
        for stream, position, *values in await connection.fetch(query)
    }
    check_states(name, fresh.states, states, violations)


async def _fold(dsn: str, head: int, violations: Violations) -> dict[str, FreshFold]:
    """Fold the log anew, as a server with our settings would."""
    providers = load_providers(load_settings({}, settings_types()).providers)
    projections = load_projections()
    folds = {name: FreshFold(each, providers) for name, each in projections.items()}
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        reader = Reader(database, Limits())
        position = 0
        while position < head:
            tail = await reader.read_slice(position, PAGE, None)
            if tail.through == position:
                violations.add("hole", f"no reader gets beyond position {position}", 0)
                break
            for event in tail.events:
                for fresh in folds.values():
                    fresh.add(event)
            position = tail.through
    finally:
        await database.close()
    return folds


def _on_record(row: "Record") -> OnRecord:
    values: dict[str, Any] = dict(row)
    owner = values.pop("merchant_id"), values.pop("program_id")
    mark = _MARK.search(decode_headers(values.pop("headers"), row["topic"], *owner))
    return OnRecord(
        **{name: value for name, value in values.items() if name != "body"},
        mark=None if mark is None else (int(mark[1]), int(mark[2])),
        digest=digest_of(row["body"]),
    )
