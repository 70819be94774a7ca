"""A receiver's surroundings in memory: a connection, an appender, rejections. For thousands of requests a second."""

import asyncio
from datetime import datetime

from eventstore.errors import LoopledgerError, QueueFullError, RefusedError, UnavailableError
from eventstore.log.batch import OnOutcome
from eventstore.log.events import Appended, NewEvent
from eventstore.rejections import NewRejection
from tests.support import NOON

# A body that holds one of these words meets the error.
FAILURES: dict[bytes, LoopledgerError] = {
    b"REFUSED": RefusedError(problem="the test says so"),
    b"UNAVAILABLE": UnavailableError(problem="the test says so"),
}
FULL = b"FULL"


class MemoryTransport(asyncio.Transport):
    """A connection to nowhere, which keeps what is written and how it is used."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000)})
        self.written = bytearray()
        self.closing = False
        self.paused = False
        self._protocol: asyncio.BaseProtocol = protocol
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Bring bytes to the protocol, as a sender would."""
        assert isinstance(self._protocol, asyncio.Protocol)
        self._protocol.data_received(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change the protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it, unless the connection is closed."""
        if not self.closing:
            self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        """All is read at once."""
        return 0

    def can_write_eof(self) -> bool:
        """It is closed as a whole."""
        return False

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def close(self) -> None:
        """Close; the protocol hears of it in the next turn of the loop."""
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self._protocol.connection_lost(None)

    def pause_reading(self) -> None:
        """Read no more."""
        self.paused = True

    def resume_reading(self) -> None:
        """Read."""
        self.paused = False

    def is_reading(self) -> bool:
        """Whether it would read."""
        return not self.paused and not self.closing


class MemoryAppender:
    """Takes events as the Appender does; what came of one is told in a later turn of the loop."""

    def __init__(self) -> None:
        self.events: list[NewEvent] = []

    async def append(self, event: NewEvent) -> Appended:
        """Append one event."""
        loop = asyncio.get_running_loop()
        appended: asyncio.Future[Appended] = loop.create_future()

        def on_outcome(outcome: Appended | LoopledgerError) -> bool:
            if appended.done():
                return False
            if isinstance(outcome, Appended):
                appended.set_result(outcome)
            else:
                appended.set_exception(outcome)
            return True

        self.submit(event, on_outcome)
        return await appended

    def submit(self, event: NewEvent, on_outcome: OnOutcome) -> None:
        """Append one event; `on_outcome` hears what came of it."""
        if FULL in event.body:
            raise QueueFullError(deliveries=1, size=1)
        failure = next((error for word, error in FAILURES.items() if word in event.body), None)
        if failure is None:
            self.events.append(event)
        outcome = failure or Appended(len(self.events), NOON)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, on_outcome, outcome)


class MemoryRejections:
    """Keeps the rejections that are noted."""

    def __init__(self) -> None:
        self.noted: list[NewRejection] = []

    def note(self, rejection: NewRejection) -> None:
        """Keep it."""
        self.noted.append(rejection)


def without_times(value: NewEvent | NewRejection) -> dict[str, object]:
    """What is recorded, less what is new every time."""
    return {
        name: each
        for name in value.__struct_fields__
        if name != "event_id" and not isinstance(each := getattr(value, name), datetime)
    }
