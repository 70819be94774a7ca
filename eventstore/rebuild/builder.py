"""Builds a range of streams of a new generation: events come out of the log by COPY, states go in by COPY.

One process builds one range at a time, in bounded memory, and knows of no other.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Generic

from eventstore.errors import SystematicError
from eventstore.fold.folding import Accumulator, NewRows, handled_topics
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.refiling import Refiled
from eventstore.fold.writing import GenerationWriter
from eventstore.log.copy_out import EventReader
from eventstore.rebuild.late_facts import write_late
from eventstore.rebuild.messages import BuildCounts, Range
from eventstore.rebuild.queries import QUERIES
from eventstore.rebuild.second_pass import SecondPass

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Connect

# A COPY of many events takes its time: no limit but a day.
COPY_SECONDS = 86_400.0

# A range is given up when none of its events could be folded, and so many times as many as stop a live projection could
# not.
FAILURE_FACTOR = 10

# Seconds between looks at whether the live projection has caught up.
WAIT_SECONDS = 0.2


class TooManyStreamsError(Exception):
    """The range has more streams than may be held in memory: about `parts` ranges of its size would do."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        super().__init__(parts)


class Builder(Generic[State]):
    """Builds ranges of one new generation, from the first event up to `target`."""

    def __init__(
        self,
        projection: Projection[State],
        *,
        sources: Mapping[str, Source],
        generation: int,
        target: int,
        limits: "Limits",
    ) -> None:
        self._projection = projection
        self._sources = sources
        self._target = target
        self._limits = limits
        self._tables = GenerationTables(projection, generation)
        self._writer = GenerationWriter(self._tables)
        self._second_pass = SecondPass(
            projection, sources, self._tables, self._writer, target=target, limits=limits
        )
        self._topics = sorted(handled_topics(projection, sources))
        self._reader = EventReader(self._topics)

    async def build_range(
        self, connect: "Connect", range_: Range, on_progress: Callable[[int], None]
    ) -> BuildCounts:
        """Build a range; `on_progress` gets positions reached. Raises TooManyStreamsError, SystematicError.

        What an earlier attempt at the same range left behind is deleted first. Events that belong to other streams are
        left out: those may be in another range.
        """
        if range_.second_pass:
            return await self._second_pass.run(connect, range_)
        accumulator = Accumulator(self._projection, self._sources, wanted=())
        rows_written: asyncio.Task[None] | None = None
        try:
            with ExitStack() as connections:
                reading = await connect()
                connections.callback(reading.terminate)
                writing = await connect()
                connections.callback(writing.terminate)
                await self._delete_range(writing, range_)
                after = 0
                while after < self._target:
                    until = min(after + self._limits.rebuild_events, self._target)
                    await self._wait_for_live(reading)
                    await self._fold_events(reading, accumulator, range_, after, until)
                    if rows_written is not None:
                        await rows_written
                    # The next events are read while the rows of these are written.
                    rows_written = asyncio.create_task(
                        self._write_rows(
                            writing, accumulator.take_rows(), accumulator.take_refiled()
                        )
                    )
                    after = until
                    on_progress(after)
                    held = max(len(accumulator.changed), len(accumulator.late))
                    self._check_memory(held, range_, after)
                if rows_written is not None:
                    await rows_written
                await write_late(reading, writing, self._tables, self._writer, accumulator.late)
                await self._writer.copy_states(writing, accumulator.changed)
                return BuildCounts(
                    accumulator.folded, accumulator.quarantined, accumulator.left_out
                )
        finally:
            if rows_written is not None:
                await asyncio.gather(rows_written, return_exceptions=True)

    async def _fold_events(
        self,
        connection: "Connection[Record]",
        accumulator: Accumulator[State],
        range_: Range,
        after: int,
        until: int,
    ) -> None:
        reader = self._reader
        reader.begin()
        topics = ", ".join("'" + topic.replace("'", "''") + "'" for topic in self._topics)

        async def fold(data: bytes | bytearray | memoryview) -> None:
            accumulator.fold(reader.feed(bytes(data)))
            self._check_failures(accumulator)

        await connection.copy_from_query(
            QUERIES["read_range"].format(
                topics=topics,
                after=int(after),
                until=int(until),
                low=int(range_.low),
                high=int(range_.high),
            ),
            output=fold,
            format="binary",
            timeout=COPY_SECONDS,
        )

    async def _delete_range(self, connection: "Connection[Record]", range_: Range) -> None:
        for table in self._tables.tables:
            await connection.execute(
                QUERIES["delete_range"].format(**table.placeholders), range_.low, range_.high
            )
        for statement in ("delete_range_quarantine", "delete_range_refiled"):
            await connection.execute(
                QUERIES[statement],
                self._projection.name,
                self._tables.generation,
                range_.low,
                range_.high,
            )

    async def _write_rows(
        self, connection: "Connection[Record]", rows: NewRows, refiled: list[Refiled]
    ) -> None:
        await self._writer.copy_new_rows(connection, rows)
        await self._writer.copy_refiled(connection, refiled)

    async def _wait_for_live(self, connection: "Connection[Record]") -> None:
        """Let the live projection catch up first if it falls behind, unless an error holds it up."""
        name = self._projection.name
        while await connection.fetchval(QUERIES["live_lag"], name) > self._limits.rebuild_lag:  # noqa: ASYNC110 - it asks others
            await asyncio.sleep(WAIT_SECONDS)

    def _check_failures(self, accumulator: Accumulator[State]) -> None:
        count = accumulator.quarantined
        if not accumulator.folded and count >= FAILURE_FACTOR * self._limits.failures_in_a_row:
            raise SystematicError(
                projection=self._projection.name,
                checkpoint=0,
                topic="all topics",
                count=count,
                error=accumulator.last_error,
            )

    def _check_memory(self, streams: int, range_: Range, after: int) -> None:
        # Streams of the same hash cannot be parted.
        if streams > self._limits.rebuild_streams and range_.low < range_.high:
            # As many again in the rest of the log, at most; and some room.
            expected = streams * self._target / after
            raise TooManyStreamsError(
                max(2, -(-int(expected * 1.2) // self._limits.rebuild_streams))
            )
