"""The values of all processes of a server: each reports its own to the parent process, which adds them up.

Parent and child hold the ends of one socket: it has no name that others could open, and it closes when either is gone.
What a process has reported is kept when it ends, so no counter falls. A process reports twice a second and whenever the
sum is asked for, so a counter lacks at most what a killed process counted since its last report.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import msgspec
import structlog

from eventstore.metrics import Values
from eventstore.tasks import cancel_all
from runtime.metrics.definitions import lasting, merge

logger = structlog.get_logger()

# Seconds between two reports of a process.
REPORT_SECONDS = 0.5

# Seconds for which the parent waits for reports that it has asked for; then the last ones count.
COLLECT_SECONDS = 0.5

# Seconds for which a worker waits for the sum.
TOTALS_SECONDS = 2.0

# A process that reads this little of what it is told hangs: it is told no more.
UNREAD_BYTES = 64 * 1024

# The longest message, in bytes: many times what all metrics take.
LONGEST_MESSAGE = 4 * 1024 * 1024

_SIZE = struct.Struct("!I")


class Report(msgspec.Struct, frozen=True, tag=True):
    """Of a child: its values; `request` is the number of the request that it answers, 0 for none."""

    values: Values
    request: int = 0


class ReportRequest(msgspec.Struct, frozen=True, tag=True):
    """Of the parent: report now."""

    request: int


class TotalsRequest(msgspec.Struct, frozen=True, tag=True):
    """Of a child: tell what all processes together have."""


class TotalsAnswer(msgspec.Struct, frozen=True, tag=True):
    """Of the parent: what all processes together have."""

    values: Values


Message: TypeAlias = Report | ReportRequest | TotalsRequest | TotalsAnswer

_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of the socket between parent and child."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Channel":
        """Make one of a connected socket, which is closed with it."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Send a message, unless those before it are not read."""
        if self._writer.transport.get_write_buffer_size() < UNREAD_BYTES:
            data = msgspec.msgpack.encode(message)
            self._writer.write(_SIZE.pack(len(data)) + data)

    async def receive(self) -> Message:
        """Wait for a message. Raises IncompleteReadError or OSError when the other end is gone, or MsgspecError."""
        (size,) = _SIZE.unpack(await self._reader.readexactly(_SIZE.size))
        if size > LONGEST_MESSAGE:
            message = f"a message of {size} bytes"
            raise msgspec.DecodeError(message)
        return _DECODER.decode(await self._reader.readexactly(size))

    def close(self) -> None:
        """Close the socket."""
        self._writer.close()


class Totals:
    """The sum over this process, whose own values `read_own` gives, and its children."""

    def __init__(self, read_own: Callable[[], Values]) -> None:
        self._read_own = read_own
        self._reports: dict[Channel, Values] = {}
        self._ended: Values = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._request = 0
        self._awaited: set[Channel] = set()
        # Those that have yet to report, at all or what they were asked for: nobody waits for them again.
        self._silent: set[Channel] = set()
        self._all_here = asyncio.Event()
        self._collecting: asyncio.Task[Values] | None = None

    def add_child(self, sock: socket.socket) -> None:
        """Take the reports of a child, which has the other end of `sock`, for as long as it lives."""
        task = asyncio.create_task(self._follow(sock), name="metrics-child")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Take no more reports."""
        collecting = [] if self._collecting is None else [self._collecting]
        await cancel_all(*self._tasks, *collecting)

    async def totals(self) -> Values:
        """What all processes together have now; however many ask, each process is asked once."""
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._collect(), name="metrics-collect")
        return await asyncio.shield(self._collecting)

    async def _collect(self) -> Values:
        self._request += 1
        self._awaited = self._reports.keys() - self._silent
        self._all_here = asyncio.Event()
        for channel in self._reports:
            channel.send(ReportRequest(self._request))
        if self._awaited:
            with suppress(TimeoutError):
                async with asyncio.timeout(COLLECT_SECONDS):
                    await self._all_here.wait()
            self._silent |= self._awaited
        return merge([self._ended, *self._reports.values(), self._read_own()])

    async def _follow(self, sock: socket.socket) -> None:
        channel = await Channel.over(sock)
        self._reports[channel] = {}
        self._silent.add(channel)
        answers: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await channel.receive()
                if isinstance(message, Report):
                    self._reports[channel] = message.values
                    self._silent.discard(channel)
                    if message.request == self._request:
                        self._arrived(channel)
                elif isinstance(message, TotalsRequest):
                    answer = asyncio.create_task(self._answer(channel))
                    answers.add(answer)
                    answer.add_done_callback(answers.discard)
        except (asyncio.IncompleteReadError, OSError):
            # It has ended.
            pass
        except msgspec.MsgspecError:
            logger.exception(
                "metrics_unreadable", message="A report of a worker could not be read."
            )
        finally:
            await cancel_all(*answers)
            channel.close()
            self._ended = merge([self._ended, lasting(self._reports.pop(channel))])
            self._silent.discard(channel)
            self._arrived(channel)

    async def _answer(self, channel: Channel) -> None:
        channel.send(TotalsAnswer(await self.totals()))

    def _arrived(self, channel: Channel) -> None:
        self._awaited.discard(channel)
        if not self._awaited:
            self._all_here.set()


class Reporter:
    """Reports what `read_own` gives to the parent process, at the other end of `sock`, and asks it for the sum."""

    def __init__(self, sock: socket.socket, read_own: Callable[[], Values]) -> None:
        self._sock = sock
        self._read_own = read_own
        self._channel: Channel | None = None
        self._totals: asyncio.Future[Values] | None = None

    async def run(self) -> None:
        """Report until the parent is gone."""
        self._channel = channel = await Channel.over(self._sock)
        reporting = asyncio.create_task(self._report_regularly(channel), name="metrics-report")
        try:
            while True:
                message = await channel.receive()
                if isinstance(message, ReportRequest):
                    channel.send(Report(self._read_own(), message.request))
                elif isinstance(message, TotalsAnswer):
                    self._on_totals(message.values)
        except (asyncio.IncompleteReadError, OSError):
            # This process is about to end too.
            pass
        finally:
            await cancel_all(reporting)
            channel.close()

    async def totals(self) -> Values:
        """What all processes together have now. Raises TimeoutError if the parent does not say."""
        if self._totals is None:
            self._totals = asyncio.get_running_loop().create_future()
            if self._channel is not None:
                self._channel.send(TotalsRequest())
        try:
            async with asyncio.timeout(TOTALS_SECONDS):
                return await asyncio.shield(self._totals)
        except TimeoutError:
            self._totals = None
            raise

    async def _report_regularly(self, channel: Channel) -> None:
        while True:
            channel.send(Report(self._read_own()))
            await asyncio.sleep(REPORT_SECONDS)

    def _on_totals(self, values: Values) -> None:
        totals, self._totals = self._totals, None
        if totals is not None and not totals.done():
            totals.set_result(values)
