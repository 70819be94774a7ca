"""The values of the log: what goes in, what is on record."""

from datetime import datetime
from uuid import UUID

import msgspec


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery on its way into the log. `headers` are "Name: value" lines, each ended by CR LF."""

    event_id: UUID
    provider: str
    topic: str
    merchant_id: str
    program_id: str | None
    stream: str
    received_at: datetime
    headers: bytes
    body: bytes


class Appended(msgspec.Struct, frozen=True):
    """Where an event went."""

    position: int
    recorded_at: datetime


class Recorded(msgspec.Struct, frozen=True):
    """What is on record of every event, besides its bytes: its `position` in the log and its `event_id`.

    `provider` is who sent it, `topic` the provider's name for what happened; `merchant_id` and `program_id` say whose
    it is, `stream` what thing it is about. `received_at` is by the clock of the process that received it,
    `recorded_at` by the log's, which never goes back.
    """

    position: int
    event_id: UUID
    provider: str
    topic: str
    merchant_id: str
    program_id: str | None
    stream: str
    received_at: datetime
    recorded_at: datetime


class Event(Recorded, frozen=True):
    """A delivery on record. `body` is exactly what was received."""

    body: bytes


class EventWithHeaders(Event, frozen=True):
    """An event and the headers it came with, credentials left out."""

    headers: bytes


class ListedEvent(Recorded, frozen=True):
    """An event in a list: everything but its bytes. `size` is the body's, in bytes."""

    size: int


class LogSlice(msgspec.Struct, frozen=True):
    """What follows position `after` without a gap, up to `through`: the events asked for; others are counted."""

    after: int
    through: int
    events: list[Event]

    @property
    def ignored(self) -> int:
        """How many events were not asked for. Positions have no holes, so it is what is left."""
        return self.through - self.after - len(self.events)

    def split(self, count: int) -> "tuple[LogSlice, LogSlice]":
        """Cut it behind its first `count` events."""
        middle = self.events[count - 1].position
        return (
            LogSlice(self.after, middle, self.events[:count]),
            LogSlice(middle, self.through, self.events[count:]),
        )
