"""Build a range of streams of a new generation: events come out of the log by COPY, states go in by COPY.

One process does one range at a time, in bounded memory, and knows of no other.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic

import msgspec

from eventstore.errors import SystematicError
from eventstore.fold.folding import Accumulator, Row, handled_topics
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.writing import GenerationWriter
from eventstore.log.copy_out import EventReader
from eventstore.rebuild.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Connect

# A COPY of many events takes its time: no limit but a day.
COPY_SECONDS = 86_400.0

# So many times what would stop a live projection, without one that could be folded: a range ends early.
HOPELESS = 10

# Seconds between looks at whether the live projection has caught up.
WAIT_SECONDS = 0.2

# Hashes of streams are of 32 bits, signed.
LOWEST, HIGHEST = -(2**31), 2**31 - 1


class Range(msgspec.Struct, frozen=True):
    """The streams whose names hash to `low` ... `high`, both included."""

    low: int = LOWEST
    high: int = HIGHEST

    @property
    def share(self) -> float:
        """Its part of all streams."""
        return (self.high - self.low + 1) / (HIGHEST - LOWEST + 1)

    def split(self, parts: int) -> "list[Range]":
        """Cut it into about equal parts, at most so many."""
        size = -(-(self.high - self.low + 1) // parts)
        return [
            Range(low, min(low + size - 1, self.high))
            for low in range(self.low, self.high + 1, size)
        ]


class BuildCounts(msgspec.Struct, frozen=True):
    """What came of a range."""

    folded: int
    quarantined: int


class TooManyStreamsError(Exception):
    """The range has more streams than may be held: about `parts` ranges of its size would do."""

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
        self._topics = sorted(handled_topics(projection, sources))
        self._reader = EventReader(self._topics)

    async def build(
        self, connect: "Connect", part: Range, progress: Callable[[int], None]
    ) -> BuildCounts:
        """Build a range; tells `progress` positions reached. Raises TooManyStreamsError, SystematicError.

        What an attempt at the same range left behind is cleared away first.
        """
        accumulator = Accumulator(self._projection, self._sources)
        reading, writing = await connect(), await connect()
        flushed: asyncio.Task[None] | None = None
        try:
            await self._clear(writing, part)
            after = 0
            while after < self._target:
                until = min(after + self._limits.rebuild_events, self._target)
                await self._wait_for_live(reading)
                await self._read(reading, accumulator, part, after, until)
                if flushed is not None:
                    await flushed
                # The next events are read while the journal of these is written.
                flushed = asyncio.create_task(self._flush(writing, *accumulator.take_rows()))
                after = until
                progress(after)
                self._check_memory(len(accumulator.changed), part, after)
            if flushed is not None:
                await flushed
            await self._writer.copy_states(writing, accumulator.changed)
            return BuildCounts(accumulator.folded, accumulator.quarantined)
        finally:
            reading.terminate()
            writing.terminate()
            if flushed is not None:
                await asyncio.gather(flushed, return_exceptions=True)

    async def _read(
        self,
        connection: "Connection[Record]",
        accumulator: "Accumulator[State]",
        part: Range,
        after: int,
        until: int,
    ) -> None:
        reader = self._reader
        reader.begin()
        topics = ", ".join("'" + topic.replace("'", "''") + "'" for topic in self._topics)

        async def take(data: bytes | bytearray | memoryview) -> None:
            accumulator.fold(reader.feed(bytes(data)))
            self._check_failures(accumulator)

        await connection.copy_from_query(
            QUERIES["read_range"].format(
                topics=topics,
                after=int(after),
                until=int(until),
                low=int(part.low),
                high=int(part.high),
            ),
            output=take,
            format="binary",
            timeout=COPY_SECONDS,
        )

    async def _clear(self, connection: "Connection[Record]", part: Range) -> None:
        for table in self._tables.tables:
            await connection.execute(
                QUERIES["delete_range"].format(**table.placeholders), part.low, part.high
            )
        await connection.execute(
            QUERIES["delete_range_quarantine"],
            self._projection.name,
            self._tables.generation,
            part.low,
            part.high,
        )

    async def _flush(
        self,
        connection: "Connection[Record]",
        journal: list[Row],
        quarantined: list[tuple[int, str, str]],
    ) -> None:
        await self._writer.copy_journal(connection, journal)
        await self._writer.copy_quarantine(connection, quarantined)

    async def _wait_for_live(self, connection: "Connection[Record]") -> None:
        """Let a live projection that falls behind come first, unless it stands still anyway."""
        name = self._projection.name
        while await connection.fetchval(QUERIES["live_lag"], name) > self._limits.rebuild_lag:  # noqa: ASYNC110 - it asks others
            await asyncio.sleep(WAIT_SECONDS)

    def _check_failures(self, accumulator: Accumulator[State]) -> None:
        count = accumulator.failures_in_a_row
        if not accumulator.folded and count >= HOPELESS * self._limits.failures_in_a_row:
            raise SystematicError(
                projection=self._projection.name,
                checkpoint=0,
                count=count,
                error=accumulator.last_error,
            )

    def _check_memory(self, held: int, part: Range, after: int) -> None:
        # What hashes to one value cannot be cut any further.
        if held > self._limits.rebuild_streams and part.low < part.high:
            # As many again in the rest of the log, at most; and some room.
            expected = held * self._target / after
            raise TooManyStreamsError(
                max(2, -(-int(expected * 1.2) // self._limits.rebuild_streams))
            )
