"""Ids of new events."""

import os
from collections.abc import Iterator

from asyncpg.pgproto.pgproto import UUID

# Bytes asked of the kernel at a time.
RANDOM_BYTES = 4096


def _random() -> Iterator[bytes]:
    """Random bytes, 16 at a time; the kernel is asked for many at once."""
    while True:
        block = os.urandom(RANDOM_BYTES)
        for begin in range(0, RANDOM_BYTES, 16):
            yield block[begin : begin + 16]


_RANDOM = _random()


def new_event_id() -> UUID:
    """A random UUID (RFC 9562, version 4), made in a fraction of the time that uuid.uuid4() takes."""
    raw = bytearray(next(_RANDOM))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes(raw))
