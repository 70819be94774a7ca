"""The tables of one generation of a projection: its states, one row a stream, and its journal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple

import asyncpg
import msgspec

from eventstore.errors import PostgresError
from eventstore.fold.columns import (
    Column,
    columns_of,
    identifier,
    names_of,
    values_of,
)
from eventstore.fold.folding import FoldBatch, Row
from eventstore.fold.projection import Projection, State
from eventstore.fold.queries import QUERIES
from eventstore.log.copy_out import copy_rows

if TYPE_CHECKING:
    from eventstore.postgres.database import Database, Session

STATE_COLUMNS = (Column("stream", "text"), Column("position", "bigint"))
JOURNAL_COLUMNS = (
    Column("stream", "text"),
    Column("position", "bigint"),
    Column("recorded_at", "timestamp with time zone"),
)


class Table(NamedTuple):
    """A table of a generation, the view that shows it while it is live, and its columns."""

    name: str
    view: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> list[str]:
        """The names of its columns."""
        return [column.name for column in self.columns]

    @property
    def words(self) -> dict[str, str]:
        """What its statements are made of."""
        return {
            "table": identifier(self.name),
            "view": identifier(self.view),
            "columns": ",\n    ".join(column.definition for column in self.columns),
        }


class GenerationTables(Generic[State]):
    """The tables of one generation, and the statements on them."""

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
        self._load = QUERIES["load"].format(**self.states.words, names=names_of(self.columns))
        self._fold = self._fold_statement()

    @property
    def tables(self) -> list[Table]:
        """All of them."""
        return [self.states] if self.journal is None else [self.states, self.journal]

    async def create(self, connection: "Session") -> None:
        """Make the tables, without indexes, if they are not there."""
        for table in self.tables:
            await connection.execute(QUERIES["create"].format(**table.words))

    async def index(self, connection: "Session") -> None:
        """Make the indexes that are not there."""
        for statement in self.index_statements():
            await connection.execute(statement)

    def index_statements(self) -> list[str]:
        """SQL for each index: those that keep a stream to one state come first."""
        words = self.states.words
        statements = [QUERIES["create_key"].format(**words)]
        if self.journal is not None:
            statements.append(QUERIES["create_journal_key"].format(**self.journal.words))
            statements.append(QUERIES["create_journal_times"].format(**self.journal.words))
        for column in self.projection.indexes:
            index = identifier(f"{self.states.name}_{column}")
            is_tenant = column == self.projection.tenant
            template = QUERIES["create_tenant_index" if is_tenant else "create_index"]
            statements.append(template.format(**words, index=index, column=identifier(column)))
        return statements

    async def adapt(self, connection: "Session") -> None:
        """Give tables that other code made the columns that this code writes; what they hold stays.

        A column that is new is null until a rebuild; one that is gone, or has another type now, is kept beside.
        """
        for table in self.tables:
            there = await _columns_there(connection, table.name)
            wanted = {column.name: column.sql_type for column in table.columns}
            for name, column in there.items():
                if wanted.get(name) == column.sql_type:
                    continue
                if not column.nullable:
                    await _alter(connection, table, "loosen", column=name)
                if name in wanted:
                    kept = f"{name}_was_{column.sql_type.split(' ')[0]}"
                    if kept in there:
                        await _alter(connection, table, "forget", column=kept)
                    # Its index would go with it under the name that the new column's needs.
                    index = f"{table.name}_{name}"
                    await _alter(connection, table, "drop_index", index=index)
                    await _alter(connection, table, "rename", column=name, kept=kept)
            for name, sql_type in wanted.items():
                if name not in there or there[name].sql_type != sql_type:
                    await _alter(connection, table, "add", column=name, sql_type=sql_type)

    async def show(self, connection: "Session") -> None:
        """Have the views with the plain names show this generation, if they do not yet.

        Whoever built on a view keeps what it had: a column that is gone stays, null if need be. Raises PostgresError
        where one has another type now, and somebody built on it.
        """
        for table in self.tables:
            there = await _columns_there(connection, table.view)
            shown = await connection.fetchval(QUERIES["is_shown"], table.view, table.name)
            held = await _columns_there(connection, table.name)
            wanted = {column.name: column.sql_type for column in table.columns}
            if shown and list(there) == list(dict.fromkeys([*there, *wanted])):
                continue
            if any(
                wanted.get(name, column.sql_type) != column.sql_type
                for name, column in there.items()
            ):
                await _hide(connection, table)
                there = {}
            columns = [
                f'"{name}"' if name in held else f'NULL::{column.sql_type} AS "{name}"'
                for name, column in there.items()
            ]
            columns += [f'"{name}"' for name in wanted if name not in there]
            await connection.execute(
                QUERIES["show"].format(**table.words, names=", ".join(columns))
            )

    async def drop(self, connection: "Session") -> None:
        """Drop the tables."""
        for table in self.tables:
            await connection.execute(QUERIES["drop"].format(**table.words))

    async def load(self, database: "Database", streams: Sequence[str]) -> dict[str, State]:
        """The states of `streams`; a stream without one is left out."""
        make = self.projection.state
        rows = await database.fetch(self._load, streams)
        return {stream: make(*values) for stream, *values in rows}

    async def fold(self, database: "Database", stretch: "FoldBatch[State]") -> bool:
        """Write what a stretch of the log did, states and checkpoint together; False if somebody else was faster."""
        # As JSON: to encode arrays of each column costs ten times as much, and in Postgres it makes no difference.
        rows: list[Sequence[object]] = [stretch.quarantined, list(state_rows(stretch.changed))]
        if self.journal is not None:
            rows.append(stretch.journal)
        moved = await database.fetchval(
            self._fold,
            self.projection.name,
            self.generation,
            stretch.after,
            stretch.checkpoint,
            stretch.folded,
            stretch.ignored,
            stretch.failures_in_a_row,
            *(msgspec.json.encode(one).decode() for one in rows),
        )
        return moved is not None

    async def copy_states(
        self,
        connection: "Session",
        rows: Iterable[Row],
        timeout: float,  # noqa: ASYNC109 - asyncpg's own
    ) -> None:
        """Put states, as `state_rows` gives them, into a table that holds none of their streams."""
        await copy_rows(connection, self.states.name, self.states.column_names, rows, timeout)

    async def copy_journal(
        self,
        connection: "Session",
        rows: Iterable[Row],
        timeout: float,  # noqa: ASYNC109 - asyncpg's own
    ) -> None:
        """Put entries, as `journal_row` gives them, into a journal that holds none of them."""
        if self.journal is not None:
            await copy_rows(connection, self.journal.name, self.journal.column_names, rows, timeout)

    def _fold_statement(self) -> str:
        states = self.states.columns
        journaled = ""
        if self.journal is not None:
            columns = self.journal.columns
            journaled = QUERIES["fold_journal"].format(
                **self.journal.words,
                names=names_of(columns),
                values=values_of(columns),
            )
        return QUERIES["fold"].format(
            **self.states.words,
            names=names_of(states),
            values=values_of(states),
            changes=names_of(states[1:]),
            excluded=", ".join(f'excluded."{column.name}"' for column in states[1:]),
            journaled=journaled,
        )


def state_rows(changed: Mapping[str, tuple[int, State]]) -> Iterable[Row]:
    """States as rows of their table."""
    return (
        (stream, position, *msgspec.structs.astuple(state))
        for stream, (position, state) in changed.items()
    )


async def _columns_there(connection: "Session", relation: str) -> dict[str, Column]:
    """The columns of a table or a view as it is, by name, in order; none if there is no such thing."""
    rows = await connection.fetch(QUERIES["columns_there"], relation)
    return {row["name"]: Column(*row) for row in rows}


async def _hide(connection: "Session", table: Table) -> None:
    try:
        await connection.execute(QUERIES["hide"].format(**table.words))
    except asyncpg.DependentObjectsStillExistError as error:
        raise PostgresError(
            problem=f"a column of the view {table.view} has another type now, and others build on it",
            remedy=f"Drop these, and make them again afterwards: {error.detail}",
        ) from error


async def _alter(connection: "Session", table: Table, how: str, **words: str) -> None:
    await connection.execute(QUERIES[how].format(**table.words, **words))
