"""A database that looks as if it had the Citus extension: tests/support/citus_stub.sql says what it does."""

from typing import TYPE_CHECKING

from tests.support import ROOT

if TYPE_CHECKING:
    from asyncpg import Connection, Record

STUB = ROOT / "tests" / "support" / "citus_stub.sql"


async def make_citus(connection: "Connection[Record]") -> None:
    """Give this test's database the stand-in."""
    await connection.execute(STUB.read_text("utf-8"))


async def calls(connection: "Connection[Record]") -> list[tuple[str, str, str]]:
    """What was distributed: the table, by which column, colocated with what; partitions left out."""
    rows = await connection.fetch(
        "SELECT distributed::text, by, colocate_with FROM citus_calls"
        " WHERE distributed NOT IN (SELECT inhrelid FROM pg_inherits) ORDER BY nth"
    )
    return [tuple(row) for row in rows]
