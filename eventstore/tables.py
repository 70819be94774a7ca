"""A state Struct becomes the columns of a table: one table a generation, one row a stream."""

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, get_args, get_origin

import msgspec

from eventstore.projection import Projection, State
from eventstore.queries import load_queries

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    from eventstore.database import Database

TEMPLATES = load_queries(Path(__file__).with_name("tables.sql"))

SQL_TYPES: Mapping[object, str] = {
    str: "text",
    int: "bigint",
    bool: "boolean",
    Decimal: "numeric",
    datetime: "timestamptz",
}

# Marks a field of a state that must be masked wherever it is shown: Annotated[str, SECRET].
SECRET = msgspec.Meta(extra={"secret": True})


class Column(NamedTuple):
    """One field of a state as a column."""

    name: str
    sql_type: str
    nullable: bool
    secret: bool


class Stretch(NamedTuple, Generic[State]):
    """What the events after `after` up to `checkpoint` did to a projection.

    `changed` are states by their streams, each with the position that changed it; `quarantined` are positions, each
    with its stream and an error.
    """

    after: int
    checkpoint: int
    folded: int
    ignored: int
    changed: Mapping[str, tuple[int, State]]
    quarantined: Sequence[tuple[int, str, str]]


class StateTable(Generic[State]):
    """The table of one generation of a projection, and the statements on it."""

    def __init__(self, projection: Projection[State], generation: int) -> None:
        self.projection = projection
        self.columns = columns_of(projection.state)
        self.generation = generation
        self.table = f"{projection.name}_{generation}"
        names = [column.name for column in self.columns]
        self._words = {
            "table": _identifier(self.table),
            "view": _identifier(projection.name),
            "names": ", ".join(names),
            "excluded": ", ".join(f"excluded.{name}" for name in names),
            "columns": ",\n    ".join(
                f"{c.name} {c.sql_type}{'' if c.nullable else ' NOT NULL'}" for c in self.columns
            ),
            "arrays": ", ".join(
                f"${n}::{column.sql_type}[]" for n, column in enumerate(self.columns, 12)
            ),
        }
        self._load = self._statement("load")
        self._fold = self._statement("fold")

    async def create(self, connection: "Connection[Record] | PoolConnectionProxy[Record]") -> None:
        """Make the table and its indexes, once, and show it under the projection's name."""
        await connection.execute(self._statement("create"))
        for column in self.projection.indexes:
            index = _identifier(f"{self.table}_{column}")
            await connection.execute(self._statement("create_index", index=index, column=column))
        await connection.execute(self._statement("show"))

    async def load(self, database: "Database", streams: Sequence[str]) -> dict[str, State]:
        """The states of `streams`; a stream without one is left out."""
        make = self.projection.state
        rows = await database.fetch(self._load, streams)
        return {stream: make(*values) for stream, *values in rows}

    async def fold(self, database: "Database", stretch: "Stretch[State]") -> bool:
        """Write what a stretch of the log did, states and checkpoint together; False if somebody else was faster."""
        quarantined = _columns(stretch.quarantined, 3)
        changed = _columns(
            (
                (stream, position, *msgspec.structs.astuple(state))
                for stream, (position, state) in stretch.changed.items()
            ),
            2 + len(self.columns),
        )
        moved = await database.fetchval(
            self._fold,
            self.projection.name,
            self.generation,
            stretch.after,
            stretch.checkpoint,
            stretch.folded,
            stretch.ignored,
            *quarantined,
            *changed,
        )
        return moved is not None

    def _statement(self, name: str, **words: str) -> str:
        return TEMPLATES[name].format(**self._words, **words)


class StateView(Generic[State]):
    """The live generation of a projection, by its plain name: what the API reads."""

    def __init__(self, projection: Projection[State]) -> None:
        self.columns = columns_of(projection.state)
        self._words = {
            "table": _identifier(projection.name),
            "names": ", ".join(column.name for column in self.columns),
        }

    def page(self, filters: Iterable[str]) -> str:
        """SQL for a page: $1 the stream it starts after, $2 its length, then a value for each filter."""
        return self._statement("page", filters)

    def find(self, filters: Iterable[str]) -> str:
        """SQL for an id: $1 the id, $2 how many at most, then a value for each filter."""
        return self._statement("find", filters)

    def _statement(self, name: str, filters: Iterable[str]) -> str:
        known = {column.name: f"{column.name} = " for column in self.columns}
        if "deleted_at" in known:
            known["deleted"] = "(deleted_at IS NOT NULL) = "
        conditions = "".join(f" AND {known[name]}${n}" for n, name in enumerate(filters, 3))
        return TEMPLATES[name].format(**self._words, filters=conditions)


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Turn rows on their side; of none, so many empty columns."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def columns_of(state: type[msgspec.Struct]) -> tuple[Column, ...]:
    """Read the columns off a state's fields. Raises TypeError for a type that has no column type."""
    hints = typing.get_type_hints(state, include_extras=True)
    return tuple(
        _column(state, field.name, hints[field.name]) for field in msgspec.structs.fields(state)
    )


def _column(state: type[msgspec.Struct], name: str, hint: Any) -> Column:  # noqa: ANN401 - a type expression
    secret = False
    nullable = False
    while True:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            secret = secret or SECRET in args[1:]
            hint = args[0]
        elif origin in {typing.Union, types.UnionType} and types.NoneType in args:
            nullable = True
            (hint,) = (arg for arg in args if arg is not types.NoneType)
        elif origin is Literal:
            hint = type(args[0])
        else:
            break
    if hint not in SQL_TYPES:
        message = f"{state.__name__}.{name}: no column type for {hint!r}"
        raise TypeError(message)
    return Column(_identifier(name), SQL_TYPES[hint], nullable, secret)


def _identifier(name: str) -> str:
    """Let a name into SQL text only if it is a plain identifier."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,50}", name):
        message = f"{name!r} is not a plain SQL identifier"
        raise ValueError(message)
    return name
