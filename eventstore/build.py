"""Build a range of streams of a new generation: events come out of the log by COPY, states go in by COPY.

One process does one range at a time, in bounded memory, and knows of no other.
"""

import asyncio
import struct
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import msgspec
from asyncpg.pgproto.pgproto import UUID

from eventstore.errors import SystematicError
from eventstore.events import Event
from eventstore.projection import Projection, Source, State, fold_handled, handled_topics
from eventstore.queries import load_queries
from eventstore.tables import Entry, GenerationTables, state_rows

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.database import Connect
    from eventstore.limits import Limits

TEMPLATES = load_queries(Path(__file__).with_name("build.sql"))

# A COPY of many events takes its time: no limit but a day.
COPY_SECONDS = 86_400.0

# So many times what would stop a live projection, without one that could be folded: a range ends early.
HOPELESS = 10

# Seconds between looks at whether the live projection has caught up.
WAIT_SECONDS = 0.2

# Hashes of streams are of 32 bits, signed.
LOWEST, HIGHEST = -(2**31), 2**31 - 1

# Binary COPY: a signature, flags and the length of an extension; then the rows, each with its number of fields, each
# field with its length.
_HEADER_BYTES = 19

# What comes before the fields of variable size, the number of fields and the size of each left out: position,
# received_at, recorded_at, topic, event_id, sizes of stream, owner and body. Each of these three has its size before it
# once more.
_HEAD = struct.Struct("!6xq4xq4xq4xh4x16s4xi4xi4xi")
_SIZE_BYTES = 4

# Postgres counts microseconds from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_SEPARATOR = "\x1e"

# Owners (merchant and programme) that are remembered; after that it begins anew.
_OWNERS_REMEMBERED = 10_000


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


class Built(msgspec.Struct, frozen=True):
    """What came of a range."""

    folded: int
    quarantined: int


class TooManyStreamsError(Exception):
    """The range has more streams than may be held: about `parts` ranges of its size would do."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        super().__init__(parts)


class EventReader:
    """Reads events out of the bytes of a binary COPY, which may be cut anywhere."""

    def __init__(self, topics: list[str]) -> None:
        self._topics = [tuple(topic.split(" ", 1)) for topic in topics]
        self._rest = b""
        self._begun = False
        self._owners: dict[bytes, tuple[str, str | None]] = {}

    def begin(self) -> None:
        """Expect a new COPY."""
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with `data`."""
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        if not self._begun:
            if end < _HEADER_BYTES:
                self._rest = buffer
                return []
            self._begun, at = True, _HEADER_BYTES
        events: list[Event] = []
        recorded, recorded_at = None, _EPOCH
        unpack, head_bytes, topics, owners = (
            _HEAD.unpack_from,
            _HEAD.size,
            self._topics,
            self._owners,
        )
        while at + head_bytes <= end:
            position, received, moment, topic, raw_id, streams, owns, bodies = unpack(buffer, at)
            stream_at = at + head_bytes + _SIZE_BYTES
            owner_at = stream_at + streams + _SIZE_BYTES
            body_at = owner_at + owns + _SIZE_BYTES
            beyond = body_at + bodies
            if beyond > end:
                break
            if moment != recorded:
                # The same for all that were appended at once.
                recorded, recorded_at = moment, _EPOCH + timedelta(0, 0, moment)
            raw_owner = buffer[owner_at : owner_at + owns]
            merchant_id, program_id = owners.get(raw_owner) or self._owner(raw_owner)
            provider, name = topics[topic]
            events.append(
                Event(
                    position,
                    UUID(raw_id),
                    provider,
                    name,
                    merchant_id,
                    program_id,
                    buffer[stream_at : stream_at + streams].decode(),
                    _EPOCH + timedelta(0, 0, received),
                    recorded_at,
                    buffer[body_at:beyond],
                )
            )
            at = beyond
        self._rest = buffer[at:]
        return events

    def _owner(self, raw: bytes) -> tuple[str, str | None]:
        """Read merchant and programme, and remember them: few are many streams'."""
        if len(self._owners) >= _OWNERS_REMEMBERED:
            self._owners.clear()
        merchant_id, given, program_id = raw.decode().partition(_SEPARATOR)
        owner = self._owners[raw] = (merchant_id, program_id if given else None)
        return owner


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
        self._topics = sorted(handled_topics(projection, sources))
        self._reader = EventReader(self._topics)

    async def build(
        self, connect: "Connect", part: Range, progress: Callable[[int], None]
    ) -> Built:
        """Build a range; tells `progress` positions reached. Raises TooManyStreamsError, SystematicError.

        What an attempt at the same range left behind is cleared away first.
        """
        folder = Folder(self._projection, self._sources, self._limits)
        reading, writing = await connect(), await connect()
        flushed: asyncio.Task[None] | None = None
        try:
            await self._clear(writing, part)
            after = 0
            while after < self._target:
                until = min(after + self._limits.rebuild_events, self._target)
                await self._wait_for_live(reading)
                await self._read(reading, folder, part, after, until)
                if flushed is not None:
                    await flushed
                # The next events are read while the journal of these is written.
                flushed = asyncio.create_task(self._flush(writing, *folder.take()))
                after = until
                progress(after)
                self._check_memory(len(folder.states), part, after)
            if flushed is not None:
                await flushed
            states = state_rows(folder.states)
            await self._tables.copy_states(writing, states, timeout=COPY_SECONDS)
            return Built(folder.folded, folder.quarantined)
        finally:
            reading.terminate()
            writing.terminate()
            if flushed is not None:
                await asyncio.gather(flushed, return_exceptions=True)

    async def _read(
        self,
        connection: "Connection[Record]",
        folder: "Folder[State]",
        part: Range,
        after: int,
        until: int,
    ) -> None:
        reader = self._reader
        reader.begin()
        topics = ", ".join("'" + topic.replace("'", "''") + "'" for topic in self._topics)

        async def take(data: bytes | bytearray | memoryview) -> None:
            folder.fold(reader.feed(bytes(data)))

        await connection.copy_from_query(
            TEMPLATES["read_range"].format(
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
                TEMPLATES["clear_range"].format(**table.words), part.low, part.high
            )
        await connection.execute(
            TEMPLATES["clear_quarantine"],
            self._projection.name,
            self._tables.generation,
            part.low,
            part.high,
        )

    async def _flush(
        self,
        connection: "Connection[Record]",
        journal: list[Entry],
        quarantined: list[tuple[int, str, str]],
    ) -> None:
        if journal:
            await self._tables.copy_journal(connection, journal, timeout=COPY_SECONDS)
        if quarantined:
            name, generation = self._projection.name, self._tables.generation
            await connection.copy_records_to_table(
                "quarantine",
                records=[(name, generation, *one) for one in quarantined],
                columns=["projection", "generation", "position", "stream", "error"],
            )

    async def _wait_for_live(self, connection: "Connection[Record]") -> None:
        """Let a live projection that falls behind come first, unless it stands still anyway."""
        name = self._projection.name
        while await connection.fetchval(TEMPLATES["live_lag"], name) > self._limits.rebuild_lag:  # noqa: ASYNC110 - it asks others
            await asyncio.sleep(WAIT_SECONDS)

    def _check_memory(self, held: int, part: Range, after: int) -> None:
        # What hashes to one value cannot be cut any further.
        if held > self._limits.rebuild_streams and part.low < part.high:
            # As many again in the rest of the log, at most; and some room.
            expected = held * self._target / after
            raise TooManyStreamsError(
                max(2, -(-int(expected * 1.2) // self._limits.rebuild_streams))
            )


class Folder(Generic[State]):
    """Folds the events of one range in memory."""

    def __init__(
        self, projection: Projection[State], sources: Mapping[str, Source], limits: "Limits"
    ) -> None:
        self.states: dict[str, tuple[int, State]] = {}
        self.folded = 0
        self.quarantined = 0
        self._projection = projection
        self._sources = sources
        self._limits = limits
        self._journal: list[Entry] = []
        self._quarantine: list[tuple[int, str, str]] = []

    def fold(self, events: Iterable[Event]) -> None:
        """Fold events that concern the projection. Raises SystematicError."""
        projection, sources, states = self._projection, self._sources, self.states
        journal = self._journal
        nothing: tuple[int, Any] = (0, None)
        for event in events:
            stream = event.stream
            before = states.get(stream, nothing)[1]
            folded = fold_handled(projection, sources, before, event)
            if folded.error is not None:
                self._put_aside(event, folded.error)
                continue
            self.folded += 1
            if folded.verdict == "applied" and folded.state != before:
                states[stream] = (event.position, folded.state)
            if folded.entry is not None:
                journal.append(Entry(stream, event.position, event.recorded_at, folded.entry))

    def take(self) -> tuple[list[Entry], list[tuple[int, str, str]]]:
        """Give away what can be written already: journal and quarantine."""
        taken = self._journal, self._quarantine
        self._journal, self._quarantine = [], []
        return taken

    def _put_aside(self, event: Event, error: str) -> None:
        self.quarantined += 1
        self._quarantine.append((event.position, event.stream, error))
        if not self.folded and self.quarantined >= HOPELESS * self._limits.failures_in_a_row:
            raise SystematicError(
                projection=self._projection.name,
                checkpoint=0,
                count=self.quarantined,
                error=error,
            )
