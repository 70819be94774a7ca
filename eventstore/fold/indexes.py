"""The indexes of a generation's states: one for each way in which lists are sorted, filtered and searched.

A query has to name the very expression that is indexed, so those are here too, for eventstore/query.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from eventstore.fold.columns import columns_of, identifier
from eventstore.fold.projection import Projection
from eventstore.fold.queries import QUERIES
from eventstore.postgres.schema import NO_LIMIT

if TYPE_CHECKING:
    from eventstore.postgres.database import Session

# Below every value of its type: what has none comes first in an order.
LEAST: Mapping[str, str] = {
    "bigint": "'-9223372036854775808'::bigint",
    "numeric": "'-Infinity'::numeric",
    "timestamp with time zone": "'-infinity'::timestamptz",
}

# Tells apart what is equal in an order, in an eighth of what the stream would take, and stays as it is when the thing
# changes.
TIE_BREAKER = "hashtextextended(stream, 0)"

# By so much of a name it is found. Postgres makes no words of a text of a megabyte.
SEARCHED_CHARACTERS = 1_000


def effective_at(projection: Projection[Any]) -> str:
    """SQL for the time that the newest fact of a state counts at, null if there is none."""
    return f"coalesce({', '.join(map(quoted, projection.effective_at))})"


def sort_key(expression: str, sql_type: str) -> str:
    """SQL for what a list is sorted by, which is never null."""
    return f"coalesce({expression}, {LEAST[sql_type]})"


def words(column: str) -> str:
    """SQL for the words of a name."""
    return f"to_tsvector('simple', left({quoted(column)}, {SEARCHED_CHARACTERS}))"


def beginning(column: str) -> str:
    """SQL for a text as its beginning is compared: byte by byte, whatever the database sorts by."""
    return f'{quoted(column)} COLLATE "C"'


def quoted(column: str) -> str:
    """The name of a column in SQL."""
    return f'"{identifier(column)}"'


def list_indexes(projection: Projection[Any], name: str, table: str) -> dict[str, str]:
    """SQL for the indexes that only queries need, by their names; `name` is the table's, `table` the same in SQL."""
    return {
        (index := identifier(f"{name}_{suffix}")): QUERIES[f"create_{kind}_index"].format(
            table=table, index=index, column=column, expression=expression
        )
        for kind, suffix, column, expression in _indexes(projection)
    }


def _indexes(projection: Projection[Any]) -> Iterator[tuple[str, str, str, str]]:
    """The kind of each index, the end of its name, its column, and what it is of if that is more than the column."""
    for column in map(identifier, projection.indexes):
        if column == projection.tenant:
            yield "tenant", column, column, ""
        elif column not in projection.references:
            yield "filter", column, column, ""
    for column in map(identifier, projection.references):
        yield "reference", f"{column}_c", column, beginning(column)
    for column in map(identifier, projection.names):
        yield "words", f"{column}_words", column, words(column)
    for column in map(identifier, projection.secrets):
        yield "secret", f"{column}_hash", column, ""
    if projection.tombstone is not None:
        yield "deleted", "deleted", identifier(projection.tombstone), ""
    yield "order", "by_position", "position", "position"
    types = {column.name: column.sql_type for column in columns_of(projection.state)}
    sorts = {name: sort_key(quoted(name), types[name]) for name in projection.ranges}
    if projection.effective_at:
        sorts["effective_at"] = sort_key(effective_at(projection), "timestamp with time zone")
    for column, key in sorts.items():
        yield "order", f"by_{column}", column, f"({key}), ({TIE_BREAKER})"


async def create_concurrently(
    connection: "Session", schema: str, wanted: Mapping[str, str]
) -> list[str]:
    """Create indexes of tables in this schema that do not exist, while the tables are in use; gives their names.

    The connection must not be in a transaction. What a build that was interrupted left is made again.
    """
    made = []
    for name, statement in wanted.items():
        valid = await connection.fetchval(QUERIES["index_is_valid"], f"{schema}.{name}")
        if valid:
            continue
        if valid is not None:
            await drop_concurrently(connection, schema, name)
        concurrently = statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)
        await connection.execute(concurrently, timeout=NO_LIMIT)
        made.append(name)
    return made


async def drop_concurrently(connection: "Session", schema: str, name: str) -> None:
    """Drop an index, if it exists, while its table is in use."""
    if await connection.fetchval(QUERIES["relation_exists"], f"{schema}.{name}"):
        query = QUERIES["drop_index_concurrently"].format(schema=schema, index=identifier(name))
        await connection.execute(query, timeout=NO_LIMIT)


def obsolete_indexes(projection: Projection[Any], name: str) -> list[str]:
    """The indexes of the table `name` that older code made, and that newer ones serve for too."""
    return [identifier(f"{name}_{column}") for column in projection.references]
