"""What goes through COPY: events out of the log in binary, rows of a projection's tables in as CSV."""

import re
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from asyncpg.pgproto.pgproto import UUID

from eventstore.log.events import Event

if TYPE_CHECKING:
    from eventstore.postgres.database import Session

# Rows that are sent at a time.
_ROWS = 500

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

# How JSON writes a character that CSV wants as it is: all but the quote and the backslash.
_ESCAPE = re.compile(rb'\\(?:(["\\])|u([0-9a-f]{4})|(.))')
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


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


async def copy_rows(
    connection: "Session",
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    timeout: float,  # noqa: ASYNC109 - asyncpg's own
) -> None:
    """Put rows into a table."""
    await connection.copy_to_table(
        table,
        source=_csv_of(rows),
        columns=columns,
        format="csv",
        null="null",
        escape="\\",
        timeout=timeout,
    )


async def _csv_of(rows: Iterable[Sequence[object]]) -> AsyncIterator[bytes]:
    """Rows as lines of CSV in which null stands for null, and a backslash before a quote or a backslash.

    A JSON array without its brackets is such a line, but for control characters; and to encode it takes a third of the
    time that it takes a driver to encode the fields one by one in binary.
    """
    encoder = msgspec.json.Encoder()
    left = iter(rows)
    while batch := list(islice(left, _ROWS)):
        # A line break stands between rows only: within a text it is escaped.
        lines = encoder.encode_lines(batch)[1:-2].replace(b"]\n[", b"\n") + b"\n"
        yield _ESCAPE.sub(_as_it_is, lines) if b"\\" in lines else lines


def _as_it_is(escape: re.Match[bytes]) -> bytes:
    kept, code, letter = escape.groups()
    if kept:
        return escape[0]
    return bytes([int(code, 16)]) if code else _ESCAPED[letter]
