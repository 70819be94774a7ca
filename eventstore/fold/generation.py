"""The tables of one generation of a projection: its states, one row a stream, its timeline and its postings."""

import hashlib
from typing import TYPE_CHECKING, Generic, NamedTuple

import asyncpg
import msgspec

from eventstore.errors import PostgresError
from eventstore.fold.columns import Column, columns_of, identifier
from eventstore.fold.indexes import effective_at, list_indexes
from eventstore.fold.projection import (
    ABSENT_COLUMN,
    AMOUNT_COLUMN,
    POSTING_COLUMNS,
    STATE_COLUMNS,
    TIMELINE_COLUMNS,
    Changes,
    Projection,
    State,
)
from eventstore.fold.queries import QUERIES
from eventstore.postgres.schema import NO_LIMIT

if TYPE_CHECKING:
    from eventstore.postgres.database import Session


# The schema of what is folded, and that of the views in which secrets are masked.
SCHEMA = "projected"
MASKED = "masked"

# When the newest fact of a state counts, where a projection says how that is told.
EFFECTIVE_AT = Column("effective_at", "timestamp with time zone", nullable=True)

# A text as eventstore/fold/columns.py masks it.
MASKING = """'****' || right("{column}", CASE WHEN length("{column}") >= 8 THEN 4 ELSE 0 END)"""


class Table(NamedTuple):
    """A table of a generation, a view that shows it while it is live, and the columns of the view.

    They are the table's too, unless the view shows what a `query` makes of it. `updated`: its rows are; those of others
    are only added. `effective_at` is SQL for a column that only the view has.
    """

    name: str
    view: str
    columns: tuple[Column, ...]
    query: str | None = None
    updated: bool = False
    effective_at: str | None = None

    @property
    def shown(self) -> dict[str, Column]:
        """The columns that its views show, by name."""
        shown = [column for column in self.columns if not column.hidden]
        if self.effective_at is not None:
            shown.append(EFFECTIVE_AT)
        return {column.name: column for column in shown}

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
            "fillfactor": str(75 if self.updated else 100),
            # Of those that are only added there are many, and they are looked up by their streams.
            "statistics": str(100 if self.updated else 10),
            "source": self.qualified_name if self.query is None else f"(\n{self.query}\n) AS made",
        }


class GenerationTables(Generic[State]):
    """The tables of one generation: creates, adapts and drops them, their indexes and their views."""

    def __init__(self, projection: Projection[State], generation: int) -> None:
        self.projection = projection
        self.generation = generation
        self.columns = columns_of(projection.state)
        self.states = Table(
            f"{projection.name}_{generation}",
            projection.name,
            (*STATE_COLUMNS, *self.columns),
            updated=True,
            effective_at=effective_at(projection) if projection.effective_at else None,
        )
        self.timeline: Table | None = None
        self.postings: Table | None = None
        self._changes: Table | None = None
        if (timeline := projection.timeline) is None:
            return
        kept = {column.name: column._replace(nullable=True) for column in self.columns}
        view = f"{projection.name}_timeline"
        columns = (*TIMELINE_COLUMNS, *(kept[name] for name in timeline.columns), ABSENT_COLUMN)
        self.timeline = Table(f"{view}_{generation}", view, columns)
        if (total := projection.total) is not None:
            view = f"{projection.name}_postings"
            columns = (*POSTING_COLUMNS, *(kept[name] for name in total.by), AMOUNT_COLUMN)
            self.postings = Table(f"{view}_{generation}", view, columns)
        if timeline.changes is not None:
            self._changes = _view_of_changes(projection, timeline.changes, self.timeline, kept)

    @property
    def tables(self) -> list[Table]:
        """All of them."""
        return [t for t in (self.states, self.timeline, self.postings) if t is not None]

    @property
    def views(self) -> list[Table]:
        """All that is shown of them."""
        return self.tables if self._changes is None else [*self.tables, self._changes]

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
        dropped = self.views if drop_views else []
        return [
            *(QUERIES["drop_view"].format(**view.placeholders) for view in dropped),
            *(QUERIES["distribute_table"].format(**table.placeholders) for table in self.tables),
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
        """Create the indexes that do not exist; those that only lists need, only while there is nothing to index.

        Else that would hold up the fold: see create_list_indexes in indexes.py.
        """
        is_empty = not await connection.fetchval(
            QUERIES["has_rows"].format(**self.states.placeholders)
        )
        # Even CREATE INDEX IF NOT EXISTS waits for those who vacuum or index the table, or write to it.
        for name, statement in (self._indexes() | (self.list_indexes if is_empty else {})).items():
            if not await connection.fetchval(QUERIES["relation_exists"], f"{SCHEMA}.{name}"):
                await connection.execute(statement, timeout=NO_LIMIT)

    def index_statements(self) -> list[str]:
        """SQL for each index; the unique ones, which keep a stream to one state, come first."""
        return [*self._indexes().values(), *self.list_indexes.values()]

    @property
    def list_indexes(self) -> dict[str, str]:
        """SQL for the indexes that only lists need, by their names."""
        return list_indexes(self.projection, self.states.name, self.states.qualified_name)

    def _indexes(self) -> dict[str, str]:
        """Those that the fold needs, or the past of a thing, by their names."""
        placeholders = self.states.placeholders
        statements = {f"{self.states.name}_pkey": QUERIES["create_key"].format(**placeholders)}
        for table, kind, names in (
            (self.timeline, "timeline", ("pkey", "recorded_at")),
            (self.postings, "postings", ("stream", "effective_at")),
        ):
            if table is not None:
                statements |= {
                    f"{table.name}_{name}": QUERIES[f"create_{kind}_{name}"].format(
                        **table.placeholders
                    )
                    for name in names
                }
        return statements

    async def adapt(self, connection: "Session") -> None:
        """Give tables that other code created the columns that this code writes, and keep what they hold.

        A new column is null until a rebuild. A column that this code does not have is kept; one whose type has changed
        is kept under another name.
        """
        if await _existing_columns(connection, self.states.qualified_name):
            # It may have had fewer tables. Of one that was dropped meanwhile, none comes back.
            await self.create(connection)
        for table in self.tables:
            existing = await _existing_columns(connection, table.qualified_name)
            wanted = {column.name: column.sql_type for column in table.columns}
            for name, column in existing.items():
                if wanted.get(name) == column.sql_type:
                    continue
                if not column.nullable:
                    await _alter(connection, table, "drop_not_null", column=name)
                if name in wanted:
                    await _keep_under_another_name(connection, table, existing, name)
            for name, sql_type in wanted.items():
                if name not in existing or existing[name].sql_type != sql_type:
                    await _alter(connection, table, "add_column", column=name, sql_type=sql_type)

    async def create_views(self, connection: "Session") -> None:
        """Have the views with the plain names show this generation, if they do not yet.

        A view keeps its columns, since others may have built on it: one that the table lacks is null. Raises
        PostgresError where a column has another type now, and another view or rule depends on it.
        """
        for table in self.views:
            in_view = await _existing_columns(connection, table.qualified_view)
            wanted = {name: column.sql_type for name, column in table.shown.items()}
            in_table = (
                table.shown
                if table.query is not None
                else await _existing_columns(connection, table.qualified_name)
            )
            shown = await connection.fetchval(
                QUERIES["view_shows_table"], table.qualified_view, table.qualified_name
            )
            if (
                shown
                and await _is_same_query(connection, table)
                and list(in_view) == list(dict.fromkeys([*in_view, *wanted]))
            ):
                await _create_masked_view(connection, table, in_view)
                continue
            if any(
                wanted.get(name, column.sql_type) != column.sql_type
                for name, column in in_view.items()
            ):
                await _drop_view(connection, table)
                in_view = {}
            made = {} if table.effective_at is None else {EFFECTIVE_AT.name: table.effective_at}
            sources = {
                name: f'"{name}"' if name in in_table else f"NULL::{column.sql_type}"
                for name, column in in_view.items()
            }
            sources |= {name: f'"{name}"' for name in wanted if name not in in_view} | made
            columns = [f'{source} AS "{name}"' for name, source in sources.items()]
            await connection.execute(
                QUERIES["create_view"].format(**table.placeholders, names=", ".join(columns))
            )
            if table.query is not None:
                await connection.execute(
                    QUERIES["comment_on_view"].format(
                        **table.placeholders, comment=_comment_on(table.query)
                    )
                )
            await _create_masked_view(
                connection, table, await _existing_columns(connection, table.qualified_view)
            )

    async def drop(self, connection: "Session") -> None:
        """Drop the tables."""
        for table in self.tables:
            await connection.execute(QUERIES["drop_table"].format(**table.placeholders))
        if self._changes is not None:
            # Before there were timelines, a table held the changes.
            older = self._changes._replace(name=f"{self._changes.view}_{self.generation}")
            await connection.execute(QUERIES["drop_table"].format(**older.placeholders))


def _view_of_changes(
    projection: Projection[State],
    changes: Changes,
    timeline: Table,
    kept: dict[str, Column],
) -> Table:
    """The view of what changed over a timeline."""
    fields = {field.name: field.default for field in msgspec.structs.fields(projection.state)}
    defaults = [
        "NULL" if (default := fields[name]) in {None, msgspec.NODEFAULT} else f"'{default}'"
        for name in changes.columns
    ]
    column, beside = (kept[name] for name in changes.columns)
    query = QUERIES[f"changes_of_{changes.kind}"].format(
        states=QUERIES["timeline_states"].format(
            **timeline.placeholders,
            column=column.name,
            default=defaults[0],
            beside=beside.name,
            default_beside=defaults[1],
        ),
        beside=beside.name,
    )
    told: tuple[Column, ...]
    if changes.kind == "amounts":
        told = (
            column._replace(name="before"),
            column._replace(name="after"),
            Column("delta", AMOUNT_COLUMN.sql_type),
        )
    else:
        told = (column._replace(name="from"), column._replace(name="to"))
    # In the order that these views have always had.
    first, last = TIMELINE_COLUMNS[:3], (TIMELINE_COLUMNS[3], TIMELINE_COLUMNS[6])
    return Table(timeline.name, changes.name, (*first, *told, beside, *last), query)


def _comment_on(query: str) -> str:
    """What tells whether a view was made of this query."""
    return f"made by {hashlib.sha256(query.encode()).hexdigest()[:16]}"


async def _is_same_query(connection: "Session", table: Table) -> bool:
    if table.query is None:
        return True
    comment: str | None = await connection.fetchval(QUERIES["read_comment"], table.qualified_view)
    return comment == _comment_on(table.query)


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


async def _keep_under_another_name(
    connection: "Session", table: Table, existing: dict[str, Column], name: str
) -> None:
    kept = f"{name}_was_{existing[name].sql_type.split(' ')[0]}"
    if kept in existing:
        await _alter(connection, table, "drop_column", column=kept)
    # Its indexes would go with it, and the new column's need their names.
    for (index,) in await connection.fetch(QUERIES["list_indexes"], table.qualified_name, name):
        await _alter(connection, table, "drop_index", index=index)
    await _alter(connection, table, "rename_column", column=name, kept=kept)


async def _alter(connection: "Session", table: Table, statement: str, **placeholders: str) -> None:
    await connection.execute(QUERIES[statement].format(**table.placeholders, **placeholders))
