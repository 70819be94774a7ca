"""Reading events out of the log by COPY, in its binary format."""

import struct
from datetime import UTC, datetime, timedelta

from asyncpg.pgproto.pgproto import UUID

from eventstore.log.events import Event

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
_MICROSECOND = timedelta(microseconds=1)

_SEPARATOR = "\x1e"

# Owners (merchant and programme) that are remembered; after that it begins anew.
_OWNERS_REMEMBERED = 10_000


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
                recorded, recorded_at = moment, _EPOCH + _MICROSECOND * moment
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
                    _EPOCH + _MICROSECOND * received,
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
