"""Passing events on: in order per stream, several streams at once, each event again until it is taken."""

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from eventstore.errors import LoopledgerError
from eventstore.tasks import Backoff, cancel_all

# Events that may be under way or wait for those of their streams: then no more are read.
MOST_OUTSTANDING = 1_000

# Seconds between two tries of an event: the first, doubled up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0

# Seconds between two writes of the checkpoint.
CHECKPOINT_SECONDS = 0.2


class CheckpointError(LoopledgerError):
    """The checkpoint {file} {problem}."""


class Outgoing(NamedTuple):
    """An event that is to be passed on. `data` is the JSON that came of it."""

    position: int
    stream: str
    data: bytes


class Forwarder:
    """Passes events on, `connections` at once. `deliver` gives back how long to wait, if an event was not taken.

    `position`: all up to there was taken. An event that is not taken holds up those of its stream.
    """

    def __init__(
        self,
        deliver: Callable[[Outgoing, float], Awaitable[float | None]],
        *,
        position: int,
        connections: int,
    ) -> None:
        self._deliver = deliver
        self._connections = connections
        self._read = position
        # In the order of positions.
        self._outstanding: dict[int, None] = {}
        self._streams: dict[str, deque[Outgoing]] = {}
        self._backoffs: dict[str, Backoff] = {}
        # The streams whose first event is to be delivered now.
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def position(self) -> int:
        """Up to where all was taken."""
        return next(iter(self._outstanding), self._read + 1) - 1

    async def run(self) -> None:
        """Deliver what is offered, until cancelled."""
        workers = [asyncio.create_task(self._work()) for _ in range(self._connections)]
        try:
            await asyncio.gather(*workers)
        finally:
            await cancel_all(*workers)

    async def offer(self, event: Outgoing) -> None:
        """Take an event, once there is room for it."""
        while len(self._outstanding) >= MOST_OUTSTANDING:
            self._room.clear()
            await self._room.wait()
        self._read = event.position
        self._outstanding[event.position] = None
        waiting = self._streams.setdefault(event.stream, deque())
        waiting.append(event)
        if len(waiting) == 1:
            self._ready.put_nowait(event.stream)

    def skip(self, position: int) -> None:
        """Note that there is nothing to deliver up to here, but for what was offered."""
        self._read = max(self._read, position)

    async def _work(self) -> None:
        while True:
            stream = await self._ready.get()
            event = self._streams[stream][0]
            backoff = self._backoffs.setdefault(stream, Backoff(FIRST_PAUSE, LONGEST_PAUSE))
            pause = await self._deliver(event, backoff.next_pause())
            if pause is None:
                self._take_off(event)
            else:
                # Meanwhile this connection is there for others.
                asyncio.get_running_loop().call_later(pause, self._ready.put_nowait, stream)

    def _take_off(self, event: Outgoing) -> None:
        del self._backoffs[event.stream]
        del self._outstanding[event.position]
        self._room.set()
        waiting = self._streams[event.stream]
        waiting.popleft()
        if waiting:
            self._ready.put_nowait(event.stream)
        else:
            del self._streams[event.stream]


class _Saved(msgspec.Struct, frozen=True):
    """What a checkpoint file holds."""

    position: int


class Checkpoint:
    """How far events were passed on, in a file that one process has at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock: IO[bytes] | None = None
        self._saved = -1

    def open(self) -> int | None:
        """Take the file; gives back the position in it, None if there is none yet. Raises CheckpointError."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.file.with_name(f"{self.file.name}.lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = self.file.read_bytes()
        except FileNotFoundError:
            return None
        except BlockingIOError:
            self.close()
            raise CheckpointError(file=self.file, problem="is in use by another process") from None
        except OSError as error:
            self.close()
            problem = f"cannot be used: {error.strerror}"
            raise CheckpointError(file=self.file, problem=problem) from error
        try:
            self._saved = msgspec.json.decode(text, type=_Saved).position
        except msgspec.DecodeError as error:
            problem = f"is none: {error}; remove it, and say with --since where to begin"
            raise CheckpointError(file=self.file, problem=problem) from None
        return self._saved

    def save(self, position: int) -> None:
        """Have the file say so, whatever happens from here on. Raises CheckpointError."""
        if position == self._saved:
            return
        new = self.file.with_name(f"{self.file.name}.new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(_Saved(position)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.file)
            directory = os.open(self.file.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
            raise CheckpointError(file=self.file, problem=problem) from error
        self._saved = position

    def close(self) -> None:
        """Leave the file to others."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@asynccontextmanager
async def forwarding(forwarder: Forwarder, checkpoint: Checkpoint) -> AsyncIterator[None]:
    """Deliver what is offered while the block runs, and keep the checkpoint. Raises CheckpointError."""
    block = asyncio.current_task()
    works = [
        asyncio.create_task(forwarder.run()),
        asyncio.create_task(_keep(forwarder, checkpoint)),
    ]
    for work in works:
        # One that fails ends the block.
        work.add_done_callback(lambda done: done.cancelled() or (block and block.cancel()))
    try:
        yield
    except asyncio.CancelledError:
        for work in works:
            if work.done() and not work.cancelled() and (error := work.exception()) is not None:
                raise error from None
        raise
    finally:
        await cancel_all(*works)
        with suppress(CheckpointError):
            checkpoint.save(forwarder.position)


async def _keep(forwarder: Forwarder, checkpoint: Checkpoint) -> None:
    while True:
        await asyncio.to_thread(checkpoint.save, forwarder.position)
        await asyncio.sleep(CHECKPOINT_SECONDS)
