"""What a rebuild would change: two generations of a projection compared, at one position of both."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic

from eventstore.fold.columns import Column, mask, shown_columns_of
from eventstore.fold.folding import fold
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import STATE_COLUMNS, Projection, Source, State
from eventstore.fold.refiling import find_stream
from eventstore.fold.status import Change, ChangedRow, Diff, Rows, TableChange, TotalChange
from eventstore.log.events import Event
from eventstore.rebuild.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# How many of the changed rows are shown.
SAMPLE = 10

# Comparing many states takes its time: no limit but an hour.
COMPARE_SECONDS = 3_600.0


class Comparison(Generic[State]):
    """Compares the live generation `old` with `new`, on a connection whose snapshot does not move."""

    def __init__(
        self,
        projection: Projection[State],
        sources: Mapping[str, Source],
        old: int,
        new: int,
        connection: "Connection[Record]",
    ) -> None:
        self._projection = projection
        self._sources = sources
        self._connection = connection
        self._old = GenerationTables(projection, old)
        self._new = GenerationTables(projection, new)
        # States are matched by their streams, which are therefore equal.
        self._columns = (STATE_COLUMNS[1], *shown_columns_of(projection.state))
        self._placeholders = {
            "old": self._old.states.qualified_name,
            "new": self._new.states.qualified_name,
            "differs": _differs(self._columns),
        }

    async def diff(
        self,
        position: int,
        live_position: int,
        history: Callable[[str], AsyncIterator[Event]],
    ) -> Diff:
        """Compare them; `history` gives the events of a stream, as `read_thing` does."""
        counts = ", ".join(
            f'count(*) FILTER (WHERE o.stream = n.stream AND o."{c.name}" IS DISTINCT FROM n."{c.name}")'
            for c in self._columns
        )
        row = await self._row("compare_states", **self._placeholders, counts=counts)
        before, after, added, gone, changed, *columns = row
        return Diff(
            position=position,
            live_position=live_position,
            rows=Rows(before, after, added, gone, changed),
            columns={
                column.name: count
                for column, count in zip(self._columns, columns, strict=True)
                if count
            },
            totals=await self._totals(),
            sample=await self._sample(position, history),
            timeline=await self._timeline(),
            postings=await self._postings(),
            refiled=await self._refiled(),
        )

    async def _totals(self) -> TotalChange | None:
        total = self._projection.total
        if total is None:
            return None
        tombstone = self._projection.tombstone
        rows = await self._fetch(
            "compare_totals",
            **self._placeholders,
            amount=total.amount,
            by=", ".join(f'"{name}"' for name in total.by),
            where="" if tombstone is None else f'WHERE "{tombstone}" IS NULL',
        )
        items = [
            {
                **{name: row[name] for name in total.by},
                "before": _decimal(row["before"]),
                "after": _decimal(row["after"]),
                "change": _decimal(row["after"] - row["before"]),
            }
            for row in rows
        ]
        return TotalChange(total.amount, total.by, items)

    async def _timeline(self) -> TableChange | None:
        placeholders = self._timeline_placeholders()
        if placeholders is None:
            return None
        row = await self._row("compare_timelines", **placeholders)
        return TableChange(placeholders["name"], *row)

    def _timeline_placeholders(self) -> dict[str, str] | None:
        old, new = self._old.timeline, self._new.timeline
        if old is None or new is None:
            return None
        return {
            "name": new.view,
            "old": old.qualified_name,
            "new": new.qualified_name,
            "differs": _differs(new.columns[len(STATE_COLUMNS) :]),
        }

    async def _postings(self) -> TableChange | None:
        old, new, total = self._old.postings, self._new.postings, self._projection.total
        if old is None or new is None or total is None:
            return None
        row = await self._row(
            "compare_postings",
            old=old.qualified_name,
            new=new.qualified_name,
            by=", ".join(f'"{name}"' for name in total.by),
        )
        return TableChange(new.view, *row)

    async def _refiled(self) -> Change:
        generations = self._old.generation, self._new.generation
        return Change(*await self._row("count_refiled", self._projection.name, *generations))

    async def _sample(
        self, position: int, history: Callable[[str], AsyncIterator[Event]]
    ) -> list[ChangedRow]:
        names = [column.name for column in self._columns]
        columns = ", ".join(f'{side}."{name}"' for side in ("o", "n") for name in names)
        rows = await self._fetch(
            "sample_changed_states", **self._placeholders, columns=columns, limit=str(SAMPLE)
        )
        sample: list[ChangedRow] = []
        for stream, *values in rows:
            old, new = values[: len(names)], values[len(names) :]
            changed = {
                column: Change(before, after)
                for column, before, after in zip(self._columns, old, new, strict=True)
                if before != after
            }
            sample.append(
                ChangedRow(
                    stream,
                    await self._diverged_at(stream, position, changed, history),
                    {
                        column.name: _masked(column, change)
                        for column, change in changed.items()
                        if column is not STATE_COLUMNS[1] or len(changed) == 1
                    },
                )
            )
        return sample

    async def _diverged_at(
        self,
        stream: str,
        position: int,
        changed: Mapping[Column, Change],
        history: Callable[[str], AsyncIterator[Event]],
    ) -> int | None:
        """The position of the first event at which the two folds diverge.

        Where the timelines differ, they tell. Elsewhere, since the code of the old fold is gone, it is the first event
        after which the new fold never again gives the value that the old one ended with.
        """
        if (placeholders := self._timeline_placeholders()) is not None:
            found, same_beginning = await self._row(
                "find_timeline_divergence", stream, **placeholders
            )
            if found is not None and same_beginning:
                return int(found)
        diverged: dict[Column, int] = {}
        state: State | None = None
        async for event in history(stream):
            if event.position > position:
                break
            if find_stream(self._sources, event) == stream:
                state = fold(self._projection, self._sources, state, event).state
            for column, change in changed.items():
                value = (
                    event.position
                    if column.name == "position"
                    else getattr(state, column.name, None)
                )
                if value == change.before:
                    diverged.pop(column, None)
                else:
                    diverged.setdefault(column, event.position)
        values = [
            p for column, p in diverged.items() if column.name != "position"
        ] or diverged.values()
        return min(values, default=None)

    async def _row(self, statement: str, *values: object, **placeholders: str) -> Sequence[Any]:
        (row,) = await self._fetch(statement, *values, **placeholders)
        return tuple(row.values())

    async def _fetch(self, statement: str, *values: object, **placeholders: str) -> "list[Record]":
        query = QUERIES[statement].format(**placeholders)
        return await self._connection.fetch(query, *values, timeout=COMPARE_SECONDS)


def _differs(columns: Sequence[Column]) -> str:
    """SQL that says whether o and n differ in any of these columns."""
    pairs = (f'o."{column.name}" IS DISTINCT FROM n."{column.name}"' for column in columns)
    return f"({' OR '.join(pairs)})"


def _decimal(amount: Decimal) -> str:
    """An amount in decimal notation, never with an exponent."""
    return f"{amount:f}"


def _masked(column: Column, change: Change) -> Change:
    return Change(mask(change.before), mask(change.after)) if column.secret else change
