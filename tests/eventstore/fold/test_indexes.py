"""The indexes of lists come to tables that older code made while the server works as ever."""

from typing import TYPE_CHECKING

from eventstore.fold.generation import SCHEMA, GenerationTables
from eventstore.fold.indexes import create_concurrently
from eventstore.postgres.database import Database
from projections.transactions import PROJECTION
from tests.conftest import StartLoopledger
from tests.support import new_event, values
from tests.support.folding import append, fold_live
from tests.support.rebuilding import eventually, running

if TYPE_CHECKING:
    from asyncpg import Connection, Record

TABLES = GenerationTables(PROJECTION, 1)

EVENT = new_event("transaction.created", {"id": "t-1", "type": "REDEEM", "amount": 5})


async def indexes(connection: "Connection[Record]") -> set[str]:
    """The indexes of the states that can be used."""
    rows = await connection.fetch(
        "SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = 'transactions_1'::regclass AND i.indisvalid"
    )
    return {name for (name,) in values(rows)}


async def as_older_code_left_it(database: Database, connection: "Connection[Record]") -> None:
    """A table with a row, without the indexes of lists, but for one that is not made any more."""
    await append(database, [EVENT])
    await fold_live(database, PROJECTION)
    for name in TABLES.list_indexes:
        await connection.execute(f"DROP INDEX {SCHEMA}.{name}")
    await connection.execute("CREATE INDEX transactions_1_reference ON transactions_1 (reference)")


async def test_a_new_table_has_them_at_once(
    database: Database, connection: "Connection[Record]"
) -> None:
    await fold_live(database, PROJECTION)
    assert await indexes(connection) == {*TABLES.list_indexes, "transactions_1_pkey"}


async def test_an_older_table_gets_them_while_a_report_holds_their_build_up(
    database: Database, connection: "Connection[Record]", start: StartLoopledger
) -> None:
    await as_older_code_left_it(database, connection)
    async with running(start) as client:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetch("SELECT count(*) FROM transactions")
            await client.loopz("transaction.created", {"id": "t-2", "type": "REDEEM"})
            answer = await client.get("/v1/transactions?at_least=2&kind=redeem")
            assert [item["id"] for item in answer.json["items"]] == ["t-1", "t-2"]

        async def all_made() -> bool:
            return await indexes(connection) == {*TABLES.list_indexes, "transactions_1_pkey"}

        await eventually(all_made)


async def test_what_an_interrupted_build_left_is_made_again(
    database: Database, connection: "Connection[Record]"
) -> None:
    await as_older_code_left_it(database, connection)
    name = "transactions_1_by_position"
    await connection.execute(f"CREATE INDEX {name} ON transactions_1 (position)")
    await connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", name
    )
    made = await create_concurrently(connection, SCHEMA, TABLES.list_indexes)
    assert name in made
    assert name in await indexes(connection)
    assert await create_concurrently(connection, SCHEMA, TABLES.list_indexes) == []
