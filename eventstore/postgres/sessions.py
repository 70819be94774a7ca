"""What every session of ours sets, so that none depends on the settings of its role, its database or its server.

What ends a session or a statement, changes what a statement means, or hides rows, is set here; what only makes a server
faster or slower is left to whoever runs it. A setting that comes with the connection goes before those of ALTER ROLE
and ALTER DATABASE, and holds from the first statement on.
"""

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import asyncpg

from eventstore.errors import PoolerError, PostgresError
from eventstore.postgres.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncpg import Connection, Record

# Where the tables are, unless DATABASE_URL says `?search_path=...`; and nowhere else, so that no function that another
# role made can take the place of one of ours.
SEARCH_PATH = "public"

SESSION_SETTINGS = {
    "application_name": "loopledger",
    # By this a session knows that its settings reached the server.
    "loopledger.session": "set up",
    # What ends sessions and statements. The driver has a limit for each statement, which its caller can raise.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    # A machine that dies closes nothing: its session, and the lock that it holds, must not live on for hours.
    "idle_in_transaction_session_timeout": "15000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "0",
    # What a transaction may do and sees.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # A policy that would hide rows is an error instead.
    "row_security": "off",
    # What a statement and its values mean.
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "check_function_bodies": "on",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "client_min_messages": "warning",
    # Statements here are short: compiling one takes longer than executing it.
    "jit": "off",
    "plan_cache_mode": "auto",
}


def session_settings(dsn: str) -> dict[str, str]:
    """The settings of a session of the database at `dsn`."""
    # What cannot be read is refused by the driver, in its own words.
    given = parse_qs(urlsplit(dsn).query).get("search_path", [SEARCH_PATH])
    return {**SESSION_SETTINGS, "search_path": given[-1]}


async def set_up_session(connection: "Connection[Record]") -> None:
    """Set what cannot come with the connection: what not every version has, and what is not everybody's to set.

    Raises PostgresError where the role's settings switch triggers off and it may not switch them on again.
    """
    try:
        await connection.execute(QUERIES["set_up_session"])
    except asyncpg.InsufficientPrivilegeError as error:
        raise PostgresError(
            problem="the role or the database is set to session_replication_role = replica: triggers are off",
            remedy="ALTER ROLE (or DATABASE) ... RESET session_replication_role.",
        ) from error


async def refuse_pooler(
    connection: "Connection[Record]", connect: "Callable[[], Awaitable[Connection[Record]]]"
) -> None:
    """See that one process of the server serves this session from its beginning to its end. Raises PoolerError.

    A pooler in transaction mode gives each transaction to another one: locks, settings and notifications of a session
    would be a stranger's. `connect` opens a second session.
    """
    try:
        pid, settings_arrived = await _server_process(connection)
        if not settings_arrived:
            raise PoolerError(problem="does not pass on the settings of a session")
        # Else something stands before the server; that is well where a session keeps its process.
        if pid == connection.get_server_pid():
            return
        other = await connect()
        try:
            constant = await _keeps_its_process(connection, other, pid)
        finally:
            other.terminate()
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        # The statement was prepared in another process.
        constant = False
    if not constant:
        raise PoolerError(problem="is in transaction mode: locks and settings would not stay ours")


async def _keeps_its_process(
    connection: "Connection[Record]", other: "Connection[Record]", pid: int
) -> bool:
    """Whether process `pid` serves `connection`, and no other, whatever `other` does meanwhile."""
    if (await _server_process(other))[0] == pid:
        return False
    # A pool hands out what was given back last, or what has waited longest: after two at once, another one in any case.
    async with connection.transaction():
        pids = {(await _server_process(connection))[0]}
        async with other.transaction():
            await _server_process(other)
    await _server_process(other)
    for _ in range(2):
        pids.add((await _server_process(connection))[0])
    return pids == {pid}


async def _server_process(connection: "Connection[Record]") -> tuple[int, bool]:
    """Which process of the server serves a session now, and whether the session's settings reached it."""
    # In a transaction, or the statement might be prepared in one process and executed in another.
    async with connection.transaction():
        pid, settings_arrived = await connection.fetchrow(QUERIES["server_process"]) or (0, False)
        return pid, settings_arrived
