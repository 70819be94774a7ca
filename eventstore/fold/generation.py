"""The tables of one generation of a projection: its states, one row a stream, and its journal."""

from typing import TYPE_CHECKING, Generic, NamedTuple

import asyncpg

from eventstore.errors import PostgresError
from eventstore.fold.columns import Column, columns_of, identifier
from eventstore.fold.projection import JOURNAL_COLUMNS, STATE_COLUMNS, Projection, State
from eventstore.fold.queries import QUERIES
from eventstore.postgres.schema import NO_LIMIT

if TYPE_CHECKING:
    from eventstore.postgres.database import Session


# The schema of what is folded, and that of the views in which secrets are masked.
SCHEMA = "projected"
MASKED = "masked"

# A text as eventstore/fold/columns.py masks it.
MASKING = """'****' || right("{column}", CASE WHEN length("{column}") >= 8 THEN 4 ELSE 0 END)"""


class Table(NamedTuple):
    """A table of a generation, the view that shows it while it is live, and its columns."""

    name: str
    view: str
    columns: tuple[Column, ...]

    @property
    def shown(self) -> dict[str, Column]:
        """The columns that its views show, by name."""
        return {column.name: column for column in self.columns if not column.hidden}

    @property
    def column_names(self) -> list[str]:
        """The names of its columns."""
        return [column.name for column in self.columns]

    @property
    def qualified_name(self) -> str:
        """Its name with its schema, as SQL has it."""
        return f"{SCHEMA}.{identifier(self.name)}"

    @property
    def qualified_view(self) -> str:
        """The view's name with its schema, as SQL has it."""
        return f"{SCHEMA}.{identifier(self.view)}"

    @property
    def masked_view(self) -> str:
        """The name of the view that masks secrets, with its schema, as SQL has it."""
        return f"{MASKED}.{identifier(self.view)}"

    @property
    def placeholders(self) -> dict[str, str]:
        """The values of the placeholders in statements about it."""
        return {
            "schema": SCHEMA,
            "name": identifier(self.name),
            "table": self.qualified_name,
            "view": self.qualified_view,
            "masked": self.masked_view,
            "columns": ",\n    ".join(column.definition for column in self.columns),
        }


class GenerationTables(Generic[State]):
    """The tables of one generation: creates, adapts and drops them, their indexes and their views."""

    def __init__(self, projection: Projection[State], generation: int) -> None:
        self.projection = projection
        self.generation = generation
        self.columns = columns_of(projection.state)
        self.states = Table(
            f"{projection.name}_{generation}", projection.name, (*STATE_COLUMNS, *self.columns)
        )
        self.journal: Table | None = None
        if (journal := projection.journal) is not None:
            columns = (*JOURNAL_COLUMNS, *columns_of(journal.entry))
            self.journal = Table(f"{journal.name}_{generation}", journal.name, columns)

    @property
    def tables(self) -> list[Table]:
        """All of them."""
        return [self.states] if self.journal is None else [self.states, self.journal]

    async def create(self, connection: "Session") -> None:
        """Create the tables, without indexes, if they do not exist; distributed, if the log is."""
        missing = [
            table
            for table in self.tables
            if not await _existing_columns(connection, table.qualified_name)
        ]
        for table in missing:
            await connection.execute(QUERIES["create_table"].format(**table.placeholders))
        if missing:
            for statement in self.distribute_statements():
                await connection.execute(statement, timeout=NO_LIMIT)

    def distribute_statements(self, *, drop_views: bool = False) -> list[str]:
        """SQL that distributes the tables, if the log is distributed; their views have to be dropped before."""
        names = ("drop_view", "distribute_table") if drop_views else ("distribute_table",)
        return [
            QUERIES[name].format(**table.placeholders) for table in self.tables for name in names
        ]

    async def are_distributed(self, connection: "Session") -> bool:
        """Say whether the tables are distributed, where there is Citus; those that do not exist count as such."""
        return all(
            [
                await connection.fetchval(QUERIES["table_is_distributed"], table.qualified_name)
                for table in self.tables
            ]
        )

    async def create_indexes(self, connection: "Session") -> None:
        """Create the indexes that do not exist."""
        # Even CREATE INDEX IF NOT EXISTS waits for those who vacuum or index the table, or write to it.
        for name, statement in self._indexes().items():
            if not await connection.fetchval(QUERIES["relation_exists"], f"{SCHEMA}.{name}"):
                await connection.execute(statement, timeout=NO_LIMIT)

    def index_statements(self) -> list[str]:
        """SQL for each index; the unique ones, which keep a stream to one state, come first."""
        return list(self._indexes().values())

    def _indexes(self) -> dict[str, str]:
        """The same, by the names of the indexes."""
        placeholders = self.states.placeholders
        statements = {f"{self.states.name}_pkey": QUERIES["create_key"].format(**placeholders)}
        if self.journal is not None:
            name, of_journal = self.journal.name, self.journal.placeholders
            statements[f"{name}_pkey"] = QUERIES["create_journal_key"].format(**of_journal)
            statements[f"{name}_recorded_at"] = QUERIES["create_journal_time_index"].format(
                **of_journal
            )
        for column in self.projection.indexes:
            index = identifier(f"{self.states.name}_{column}")
            is_tenant = column == self.projection.tenant
            template = QUERIES["create_tenant_index" if is_tenant else "create_index"]
            statements[index] = template.format(
                **placeholders, index=index, column=identifier(column)
            )
        return statements

    async def adapt(self, connection: "Session") -> None:
        """Give tables that other code created the columns that this code writes, and keep what they hold.

        A new column is null until a rebuild. A column that this code does not have is kept; one whose type has changed
        is kept under another name.
        """
        for table in self.tables:
            existing = await _existing_columns(connection, table.qualified_name)
            wanted = {column.name: column.sql_type for column in table.columns}
            for name, column in existing.items():
                if wanted.get(name) == column.sql_type:
                    continue
                if not column.nullable:
                    await _alter(connection, table, "drop_not_null", column=name)
                if name in wanted:
                    kept = f"{name}_was_{column.sql_type.split(' ')[0]}"
                    if kept in existing:
                        await _alter(connection, table, "drop_column", column=kept)
                    # Its index would be renamed with it, and the new column's needs that name.
                    index = f"{table.name}_{name}"
                    await _alter(connection, table, "drop_index", index=index)
                    await _alter(connection, table, "rename_column", column=name, kept=kept)
            for name, sql_type in wanted.items():
                if name not in existing or existing[name].sql_type != sql_type:
                    await _alter(connection, table, "add_column", column=name, sql_type=sql_type)

    async def create_views(self, connection: "Session") -> None:
        """Have the views with the plain names show this generation, if they do not yet.

        A view keeps its columns, since others may have built on it: one that the table lacks is null. Raises
        PostgresError where a column has another type now, and another view or rule depends on it.
        """
        for table in self.tables:
            in_view = await _existing_columns(connection, table.qualified_view)
            in_table = await _existing_columns(connection, table.qualified_name)
            wanted = {name: column.sql_type for name, column in table.shown.items()}
            shown = await connection.fetchval(
                QUERIES["view_shows_table"], table.qualified_view, table.qualified_name
            )
            if shown and list(in_view) == list(dict.fromkeys([*in_view, *wanted])):
                await _create_masked_view(connection, table, in_view)
                continue
            if any(
                wanted.get(name, column.sql_type) != column.sql_type
                for name, column in in_view.items()
            ):
                await _drop_view(connection, table)
                in_view = {}
            columns = [
                f'"{name}"' if name in in_table else f'NULL::{column.sql_type} AS "{name}"'
                for name, column in in_view.items()
            ]
            columns += [f'"{name}"' for name in wanted if name not in in_view]
            await connection.execute(
                QUERIES["create_view"].format(**table.placeholders, names=", ".join(columns))
            )
            await _create_masked_view(
                connection, table, await _existing_columns(connection, table.qualified_view)
            )

    async def drop(self, connection: "Session") -> None:
        """Drop the tables."""
        for table in self.tables:
            await connection.execute(QUERIES["drop_table"].format(**table.placeholders))


async def _existing_columns(connection: "Session", relation: str) -> dict[str, Column]:
    """The columns of a table or a view as it is, by name, in order; none if it does not exist."""
    rows = await connection.fetch(QUERIES["list_columns"], relation)
    return {row["name"]: Column(*row) for row in rows}


async def _create_masked_view(
    connection: "Session", table: Table, in_view: dict[str, Column]
) -> None:
    """Have the view without secrets show what the other shows, if it does not yet.

    A column that this code does not know may hold secrets: it is null there.
    """
    wanted = table.shown
    secrets = [name for name in in_view if name in wanted and wanted[name].secret]
    unknown = [name for name in in_view if name not in wanted]
    comment = f"masked: {', '.join(secrets)}; left out: {', '.join(unknown)}"
    in_masked = await _existing_columns(connection, table.masked_view)
    is_same = _types(in_masked) == _types(in_view)
    if is_same and comment == await connection.fetchval(QUERIES["read_comment"], table.masked_view):
        return
    if _types(in_masked) != _types(in_view)[: len(in_masked)]:
        await _drop_view(connection, table, "drop_masked_view")
    names = []
    for name, column in in_view.items():
        shown = f'"{name}"'
        if name in unknown or (name in secrets and column.sql_type != "text"):
            shown = f"NULL::{column.sql_type}"
        elif name in secrets:
            shown = MASKING.format(column=name)
        names.append(f'{shown} AS "{name}"')
    await connection.execute(
        QUERIES["create_masked_view"].format(
            **table.placeholders, names=", ".join(names), comment=comment
        )
    )


def _types(columns: dict[str, Column]) -> list[tuple[str, str]]:
    return [(name, column.sql_type) for name, column in columns.items()]


async def _drop_view(connection: "Session", table: Table, statement: str = "drop_view") -> None:
    try:
        await connection.execute(QUERIES[statement].format(**table.placeholders))
    except asyncpg.DependentObjectsStillExistError as error:
        raise PostgresError(
            problem=f"a column of the view {table.view} has another type now, and other objects depend on it",
            remedy=f"Drop these, and create them again afterwards: {error.detail}",
        ) from error


async def _alter(connection: "Session", table: Table, statement: str, **placeholders: str) -> None:
    await connection.execute(QUERIES[statement].format(**table.placeholders, **placeholders))
