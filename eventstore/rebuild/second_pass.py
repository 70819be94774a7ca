"""The second pass of a build: streams are folded again whole, once the first pass has seen every event.

Builders are cut by the streams on record, so that an event which belongs to another one may be met by a builder that
does not have it. Such events are entered as refiled, and the streams that they belong to are folded again here.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Generic

from eventstore.fold.folding import Accumulator, handles
from eventstore.fold.generation import GenerationTables
from eventstore.fold.projection import Projection, Source, State
from eventstore.fold.refiling import read_thing
from eventstore.fold.writing import GenerationWriter
from eventstore.log.events import Event
from eventstore.rebuild.late_facts import write_late
from eventstore.rebuild.messages import BuildCounts, Range
from eventstore.rebuild.queries import QUERIES

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.limits import Limits
    from eventstore.postgres.database import Connect

# Streams that are written together.
STREAMS = 500

# Events that are folded before what came of them is written, states apart.
EVENTS = 500


class SecondPass(Generic[State]):
    """Folds streams of a new generation again, up to `target`; its tables have their indexes."""

    def __init__(
        self,
        projection: Projection[State],
        sources: Mapping[str, Source],
        tables: GenerationTables[State],
        writer: GenerationWriter[State],
        *,
        target: int,
        limits: "Limits",
    ) -> None:
        self._projection = projection
        self._sources = sources
        self._tables = tables
        self._writer = writer
        self._target = target
        self._limits = limits

    async def run(self, connect: "Connect", range_: Range) -> BuildCounts:
        """Fold those streams of a range again that events were refiled to; gives back by how much counts change."""
        counts = BuildCounts(0, 0)
        with ExitStack() as connections:
            reading = await connect()
            connections.callback(reading.terminate)
            writing = await connect()
            connections.callback(writing.terminate)
            after = ""
            while streams := await self._streams_refiled_to(reading, range_, after):
                counts += await self.fold_again(reading, writing, streams)
                after = streams[-1]
        return counts

    async def _streams_refiled_to(
        self, connection: "Connection[Record]", range_: Range, after: str
    ) -> list[str]:
        rows = await connection.fetch(
            QUERIES["list_streams_refiled_to"],
            self._projection.name,
            self._tables.generation,
            *(range_.low, range_.high, after, STREAMS),
        )
        return [row["refiled_to"] for row in rows]

    async def fold_again(
        self,
        reading: "Connection[Record]",
        writing: "Connection[Record]",
        streams: Sequence[str],
    ) -> BuildCounts:
        """Fold streams from their first events on, and write what comes of it in place of what there is."""
        for table in self._tables.tables:
            await writing.execute(
                QUERIES["delete_streams"].format(**table.placeholders), list(streams)
            )
        released = await writing.fetch(
            QUERIES["delete_streams_quarantine"],
            self._projection.name,
            self._tables.generation,
            list(streams),
        )
        # One at a time: what one of them has of another comes again with that one.
        wanted: set[str] = set()
        accumulator = Accumulator(self._projection, self._sources, wanted=wanted)
        refiled = 0
        for stream in streams:
            wanted.clear()
            wanted.add(stream)
            async for events in self._read(reading, stream):
                accumulator.fold(events)
                refiled += sum(one.refiled_to == stream for one in accumulator.take_refiled())
                await self._writer.copy_new_rows(writing, accumulator.take_rows())
        await write_late(reading, writing, self._tables, self._writer, accumulator.late)
        await self._writer.copy_states(writing, accumulator.changed)
        # Of these streams' own events, the first pass counted each.
        before = accumulator.folded + accumulator.quarantined - refiled - len(released)
        return BuildCounts(
            accumulator.folded - before, accumulator.quarantined - len(released), -refiled
        )

    async def _read(
        self, connection: "Connection[Record]", stream: str
    ) -> AsyncIterator[list[Event]]:
        """What belongs to a stream, in parts."""
        part: list[Event] = []
        generation = self._tables.generation
        async for event in read_thing(
            connection, self._projection.name, generation, stream, self._limits
        ):
            if event.position > self._target:
                break
            if handles(self._projection, self._sources, event.provider, event.topic):
                part.append(event)
            if len(part) >= EVENTS:
                yield part
                part = []
        yield part
