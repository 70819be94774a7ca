"""The roles of the database: how each logs in, and that each may do what it has to, and no more."""

import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus, unquote_to_bytes, urlsplit

import asyncpg

from eventstore.errors import PostgresError
from eventstore.postgres.queries import QUERIES
from eventstore.postgres.schema import change_patiently

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# The superuser of an embedded server: it makes the others, and is then left alone.
ADMIN: Final = "loopledger"
# Whoever owns the log, makes its tables and migrates them.
OWNER: Final = "loopledger_owner"
# Whoever takes deliveries and answers requests: it reads, appends and notes what was refused.
RECEIVER: Final = "loopledger_receiver"
# Whoever folds: it owns what is folded, and keeps the registry.
PROJECTOR: Final = "loopledger_projector"
# Whoever makes reports: it sees what is masked.
READER: Final = "loopledger_reader"

ROLES: Final = (OWNER, RECEIVER, PROJECTOR, READER)

# The database of an embedded server.
NAME: Final = "loopledger"


def new_password() -> str:
    """Make a password that nobody can guess."""
    return secrets.token_hex(32)


def password_line(role: str, password: str) -> str:
    """The line of a password file, as libpq reads it."""
    return f"*:*:*:{role}:{password}\n"


def with_password(dsn: str) -> str:
    """The URL of an embedded server with the password in it, that of a file which later cannot be read; others as is.

    Raises PostgresError.
    """
    parts = urlsplit(dsn)
    kept = parts.query.split("&")
    given = [each for each in kept if each.startswith("passfile=")]
    if not given or parts.username not in {ADMIN, *ROLES}:
        return dsn
    file = Path(os.fsdecode(unquote_to_bytes(given[0].partition("=")[2])))
    try:
        line = file.read_text("utf-8")
    except OSError as error:
        raise PostgresError(
            problem=f"the password of {parts.username} cannot be read ({error})",
            remedy="Start Loopledger, which makes it, and run this as the same user.",
        ) from error
    if "\n" in line.strip() or not line.startswith("*:*:*:"):
        # A file of somebody's own, with several servers.
        return dsn
    kept[kept.index(given[0])] = "password=" + quote_plus(line.strip().rpartition(":")[2])
    return parts._replace(query="&".join(kept)).geturl()


async def set_up_roles(
    connect: "Callable[[str], Awaitable[Connection[Record]]]", passwords: Mapping[str, str]
) -> None:
    """Make the roles and the database of an embedded server, or make them what they have to be.

    `connect` logs the superuser in, to the database of this name.
    """
    connection = await connect("postgres")
    try:
        for role, password in passwords.items():
            if not await connection.fetchval(QUERIES["has_role"], role):
                await connection.execute(QUERIES["create_role"].format(role=role))
            await connection.execute(QUERIES["set_password"].format(role=role, password=password))
        if not await connection.fetchval(QUERIES["has_database"], NAME):
            await connection.execute(QUERIES["create_database"].format(name=NAME, owner=OWNER))
        await connection.execute(QUERIES["set_up_roles"])
    finally:
        connection.terminate()
    connection = await connect(NAME)
    try:
        # What an earlier version made belongs to the superuser.
        async with connection.transaction():
            for (statement,) in await connection.fetch(QUERIES["list_new_owners"], ADMIN, OWNER):
                await connection.execute(statement)
    finally:
        connection.terminate()


async def grant_privileges(connection: "Connection[Record]", *, apart: bool) -> None:
    """Let the roles do what they have to, where they may not yet; `apart`: the receiver and the projector are in use.

    The connection is the owner's.
    """
    if not await connection.fetch(QUERIES["missing_privileges"], apart):
        return
    statement = ""

    async def grant(connection: "Connection[Record]") -> None:
        nonlocal statement
        for (statement,) in await connection.fetch(QUERIES["missing_privileges"], apart):
            await connection.execute(statement)

    try:
        await change_patiently(connection, grant, "privileges")
        # What Postgres merely warns of, too.
        missing = await connection.fetch(QUERIES["missing_privileges"], apart)
    except asyncpg.InsufficientPrivilegeError as error:
        raise _not_granted(statement) from error
    if missing:
        raise _not_granted(missing[0][0])


def _not_granted(statement: str) -> PostgresError:
    return PostgresError(
        problem=f"the user of DATABASE_URL may not do this for the roles: {statement}",
        remedy="Make roles and database as docs/operations.md says.",
    )


async def check_role(connection: "Connection[Record]", setting: str, role: str) -> None:
    """See that the URL of a setting logs in as this role. Raises PostgresError."""
    found = await connection.fetchval(QUERIES["current_role"])
    if found != role:
        raise PostgresError(
            problem=f"{setting} logs in as {found}, not as {role}",
            remedy=f"Name {role} in it, or run ALTER ROLE {found} SET role = {role}.",
        )
