"""Reading and writing the states of one generation, its timeline and its postings: in batches, and in bulk by COPY."""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Generic

import asyncpg
import msgspec

from eventstore.errors import StateChangedError
from eventstore.fold.columns import names_of, values_of
from eventstore.fold.folding import FoldBatch, NewRows, StateAt
from eventstore.fold.generation import SCHEMA, GenerationTables, Table
from eventstore.fold.projection import State
from eventstore.fold.queries import QUERIES
from eventstore.fold.refiling import Refiled
from eventstore.fold.timeline import Row, Shape, late_by_stream

if TYPE_CHECKING:
    from eventstore.postgres.database import Database, Session

# Rows that are sent at a time.
_ROWS = 500

# A COPY of many rows takes its time: no limit but a day.
_COPY_SECONDS = 86_400.0

# A character that JSON escapes; CSV needs only quotes and backslashes escaped.
_ESCAPE = re.compile(rb'\\(?:(["\\])|u([0-9a-f]{4})|(.))')
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}

_QUARANTINE_COLUMNS = ("projection", "generation", "position", "stream", "error")
_REFILED_COLUMNS = ("projection", "generation", "position", "stream", "refiled_to")


class GenerationWriter(Generic[State]):
    """Reads and writes what one generation holds."""

    def __init__(self, tables: GenerationTables[State]) -> None:
        self._tables = tables
        self._name = tables.projection.name
        self._load_statement = QUERIES["load_states"].format(
            **tables.states.placeholders, names=names_of(tables.columns)
        )
        self._other_tenant_statement = QUERIES["find_other_tenant"].format(
            **tables.states.placeholders
        )
        self._write_statement = self._write_batch_statement()
        self.shape = Shape(tables.projection)
        if tables.timeline is not None:
            self._load_timelines_statement = QUERIES["load_timelines"].format(
                **tables.timeline.placeholders, names=timeline_names(tables.timeline)
            )

    async def load_states(
        self, database: "Database", streams: Sequence[str]
    ) -> dict[str, StateAt[State]]:
        """The states of `streams`; a stream without one is left out."""
        make = self._tables.projection.state
        rows = await database.fetch(self._load_statement, streams)
        return {stream: (position, make(*values)) for stream, position, *values in rows}

    async def settle(self, database: "Database", batch: FoldBatch[State]) -> FoldBatch[State]:
        """Add to a batch what its late facts add. What comes before it has to be written."""
        table = self._tables.timeline
        if not batch.late or table is None:
            return batch
        streams = list(late_by_stream(batch.late))
        rows = await database.fetch(self._load_timelines_statement, streams, batch.after)
        return batch.settled(self.shape, map(tuple, rows))

    async def has_other_tenant(self, database: "Database", tenant: str) -> bool:
        """Say whether there are states that are not of `tenant` ("provider/tenant/")."""
        return await database.fetchval(self._other_tenant_statement, tenant) is not None

    async def write_batch(self, database: "Database", batch: FoldBatch[State]) -> bool:
        """Write a batch, states and checkpoint together; False if somebody else has moved the checkpoint.

        Raises StateChangedError if the table holds another state than one of these was folded from.
        """
        # As JSON: to encode arrays of each column costs ten times as much, and in Postgres it makes no difference.
        json = msgspec.json.encode
        values: list[object] = [
            json(batch.quarantined).decode(),
            json(list(state_rows(batch.changed))).decode(),
            batch.bases,
        ]
        for _, rows in self._new_rows(batch.timeline, batch.postings):
            values.append(json(rows).decode())
        values.append(json(batch.refiled).decode())
        try:
            moved = await database.fetchval(
                self._write_statement,
                self._name,
                self._tables.generation,
                batch.after,
                batch.checkpoint,
                batch.folded,
                batch.ignored,
                json(batch.failing).decode(),
                *values,
            )
        except asyncpg.DivisionByZeroError as error:
            raise StateChangedError(
                projection=self._name, generation=self._tables.generation, checkpoint=batch.after
            ) from error
        return moved is not None

    async def copy_states(
        self, connection: "Session", changed: Mapping[str, StateAt[State]]
    ) -> None:
        """Put states into a table that holds none of their streams."""
        table = self._tables.states
        await copy_rows(connection, SCHEMA, table.name, table.column_names, state_rows(changed))

    async def copy_new_rows(self, connection: "Session", rows: NewRows) -> None:
        """Put rows into tables that hold none of them."""
        for table, of_table in self._new_rows(rows.timeline, rows.postings):
            if of_table:
                await copy_rows(connection, SCHEMA, table.name, table.column_names, of_table)
        await self._copy_quarantine(connection, rows.quarantined)

    def _new_rows(
        self, timeline: Sequence[Row], postings: Sequence[Row]
    ) -> list[tuple[Table, Sequence[Row]]]:
        """The tables that rows are only added to, each with what is to be added."""
        pairs = (self._tables.timeline, timeline), (self._tables.postings, postings)
        return [(table, rows) for table, rows in pairs if table is not None]

    async def _copy_quarantine(
        self, connection: "Session", rows: Sequence[tuple[int, str, str]]
    ) -> None:
        """Put events, each as position, stream and error, into quarantine."""
        if rows:
            generation = self._name, self._tables.generation
            await copy_rows(
                connection,
                None,
                "quarantine",
                _QUARANTINE_COLUMNS,
                [(*generation, *row) for row in rows],
            )

    async def copy_refiled(self, connection: "Session", rows: Sequence[Refiled]) -> None:
        """Enter events that are folded in other streams than those on record."""
        if rows:
            generation = self._name, self._tables.generation
            await copy_rows(
                connection,
                None,
                "refiled",
                _REFILED_COLUMNS,
                [(*generation, *row) for row in rows],
            )

    def _write_batch_statement(self) -> str:
        states = self._tables.states
        write_new_rows = [
            QUERIES["write_new_rows"].format(
                **table.placeholders,
                part=f"rows_{parameter}",
                parameter=parameter,
                names=names_of(table.columns),
                values=values_of(table.columns),
            )
            for parameter, (table, _) in enumerate(self._new_rows([], []), 11)
        ]
        # All but stream and position.
        updated = states.columns[2:]
        return QUERIES["write_batch"].format(
            **states.placeholders,
            names=names_of(states.columns),
            values=values_of(states.columns),
            changes=names_of(updated),
            excluded=", ".join(f'excluded."{column.name}"' for column in updated),
            write_new_rows="".join(write_new_rows),
            refiled=f"${11 + len(write_new_rows)}",
        )


def state_rows(changed: Mapping[str, StateAt[State]]) -> Iterable[Row]:
    """States as rows of their table."""
    return (
        (stream, position, *msgspec.structs.astuple(state))
        for stream, (position, state) in changed.items()
    )


def timeline_names(timeline: Table) -> str:
    """The columns of a timeline as `Row` has them: arrays as text."""
    *others, absent = timeline.columns
    return f'{names_of(others)}, "{absent.name}"::text'


async def copy_rows(
    connection: "Session",
    schema: str | None,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    """Put rows into a table; None is the default schema."""
    await connection.copy_to_table(
        table,
        schema_name=schema,
        source=_csv_of(rows),
        columns=columns,
        format="csv",
        null="null",
        escape="\\",
        timeout=_COPY_SECONDS,
    )


async def _csv_of(rows: Iterable[Sequence[object]]) -> AsyncIterator[bytes]:
    """Rows as lines of CSV in which null is NULL, and quotes and backslashes are escaped by a backslash.

    A JSON array without its brackets is such a line, but for control characters. To encode it takes a third of the time
    that the driver takes to encode the fields one by one in binary.
    """
    encoder = msgspec.json.Encoder()
    left = iter(rows)
    while batch := list(islice(left, _ROWS)):
        # Line breaks occur only between rows: within a text they are escaped.
        lines = encoder.encode_lines(batch)[1:-2].replace(b"]\n[", b"\n") + b"\n"
        yield _ESCAPE.sub(_unescape, lines) if b"\\" in lines else lines


def _unescape(escape: re.Match[bytes]) -> bytes:
    kept, code, letter = escape.groups()
    if kept:
        return escape[0]
    return bytes([int(code, 16)]) if code else _ESCAPED[letter]
