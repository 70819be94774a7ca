"""What two workers of one server say to each other when one appends for the other, and how it is written.

Both run the same code. A frame is the length of its content, four bytes, and a message in MessagePack.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

import msgspec
import structlog

from eventstore.errors import LoopledgerError, QueueFullError, RefusedError, UnavailableError
from eventstore.log.events import NewEvent
from eventstore.log.writer import SeenHead

logger = structlog.get_logger()

LENGTH_BYTES = 4


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


class Hello(_Message):
    """From the appending worker, first of all: the name of its writer, and how far that knows the log to reach."""

    writer: str
    seen: SeenHead


class Batch(_Message):
    """Events to append, in this order, each with its deadline: of the monotonic clock, which is the machine's."""

    number: int
    events: list[NewEvent]
    deadlines: list[float]


class Committed(_Message):
    """Of a batch, `count` events from index `first` on are on record from position `position` on."""

    number: int
    first: int
    count: int
    position: int
    recorded_at: datetime


class Failed(_Message):
    """Of a batch, the event at `index` is not acknowledged; `error` is one of `ERRORS`."""

    number: int
    index: int
    error: str
    facts: dict[str, str | int]


class Outcomes(_Message):
    """What became of events, in the order in which it was known; and how far the log is known to reach by now."""

    outcomes: list[Committed | Failed]
    seen: SeenHead


class Ping(_Message):
    """Asks for a State: whoever answers lives."""


class State(_Message):
    """How the appending worker is: see the properties of Appender."""

    seen: SeenHead
    refusal: str | None
    outage: str | None


class Leaving(_Message):
    """The appending worker is about to stop: it answers what it has, and takes no more."""


Message: TypeAlias = Hello | Batch | Outcomes | Ping | State | Leaving

ERRORS: dict[str, type[LoopledgerError]] = {
    error.__name__: error for error in (QueueFullError, RefusedError, UnavailableError)
}

_ENCODER = msgspec.msgpack.Encoder(uuid_format="bytes")
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Write a message as a frame. Raises UnicodeError if a text in it has a lone surrogate."""
    content = _ENCODER.encode(message)
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def failed(number: int, index: int, error: LoopledgerError) -> Failed:
    """Write an error down."""
    if type(error).__name__ not in ERRORS:
        error = UnavailableError(problem=str(error))
    facts = {
        name: fact if isinstance(fact, int) else str(fact) for name, fact in error.facts.items()
    }
    return Failed(number, index, type(error).__name__, facts)


class FrameProtocol(asyncio.Protocol):
    """One end of a connection between two workers: gives each message to `on_message`.

    It never closes the connection by itself. That a connection ends tells the other end that this process has, so what
    goes wrong here only makes it fall silent, and the deadlines of its events pass.
    """

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def send(self, message: Message) -> None:
        """Send a message; whoever is gone gets none. Raises UnicodeError, as `encode` does."""
        frame = encode(message)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        """End the connection, once what was sent is gone."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what came; a message may come in pieces."""
        try:
            self._received += data
            begin = 0
            while len(self._received) - begin >= LENGTH_BYTES:
                content = begin + LENGTH_BYTES
                end = content + int.from_bytes(self._received[begin:content], "big")
                if len(self._received) < end:
                    break
                with memoryview(self._received) as view:
                    message = _DECODER.decode(view[content:end])
                begin = end
                self._on_message(message)
            del self._received[:begin]
        except Exception:
            logger.exception(
                "relay_failed",
                message="A message from another worker could not be read; the connection to it is not used any more.",
            )
            if self._transport is not None:
                self._transport.pause_reading()

    def connection_lost(self, _: Exception | None) -> None:
        """The other end, or this one, has ended it."""
        self._transport = None
        self._on_end()
