"""Builder processes: each builds a range of a new generation at a time; what they say is a line of JSON.

A builder lives as long as its standard input is open, so that it never outlives who started it.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import msgspec

from eventstore.errors import LoopledgerError
from eventstore.rebuild.builder import BuildCounts, Range
from eventstore.tasks import run_all

# A report is a short line, unless it quotes an error.
LONGEST_LINE = 1024 * 1024

# Streams are not spread quite evenly, and there may be more of them than before: a range that proves too large has been
# built in vain.
ROOM = 1.2

# Unless more are asked for: each holds states in memory and reads the whole log for its share of it.
MOST_PROCESSES = 8


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built: a generation of a projection, up to `target`, of about so many streams, if that is known."""

    projection: str
    generation: int
    target: int
    streams: int = 0


class Reached(msgspec.Struct, frozen=True, tag=True):
    """A builder has read up to this position."""

    position: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """A builder has built its range."""

    built: BuildCounts


class TooMany(msgspec.Struct, frozen=True, tag=True):
    """The range has too many streams to be held at a time: it is to be cut in so many parts."""

    parts: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A builder cannot go on; `away`: since Postgres went away."""

    error: str
    away: bool


Report: TypeAlias = Reached | Done | TooMany | Failed

_REPORT = msgspec.json.Decoder(Report)


class BuildFailedError(LoopledgerError):
    """The new generation could not be built: {problem}."""


class BuilderDiedError(LoopledgerError):
    """A builder process died (status {status})."""


class BuilderAwayError(LoopledgerError, ConnectionError):
    """A builder lost Postgres: {problem}"""  # noqa: D400 - the problem ends it


class BuilderPool:
    """Starts builders, each of which may hold `streams` at a time.

    `command` runs one; `greeting` is what each is told first, besides its job.
    """

    def __init__(
        self, command: Sequence[str], greeting: bytes, *, processes: int, streams: int
    ) -> None:
        self._command = command
        self._greeting = greeting
        self._streams = streams
        self.processes = processes or min(os.cpu_count() or 1, MOST_PROCESSES)

    def ranges(self, streams: int) -> list[Range]:
        """Cut so many streams in ranges that can be held, as many for each builder."""
        passes = -(-int(streams * ROOM) // (self._streams * self.processes))
        return Range().split(self.processes * max(1, passes))

    async def build(self, job: Job, progress: Callable[[int], None]) -> BuildCounts:
        """Build a whole generation; tells `progress` how many events' worth is done.

        Raises BuildFailedError, and BuilderDiedError when trying again may help. No builder is left behind.
        """
        building = _Building(self, job, progress)
        await run_all(*(building.work() for _ in range(self.processes)))
        return BuildCounts(building.folded, building.quarantined)

    async def start(self, job: Job) -> asyncio.subprocess.Process:
        """Start one builder and tell it its job."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        _say(process, self._greeting)
        _say(process, msgspec.json.encode(job))
        return process


class _Building:
    """One generation being built: the ranges that are left, and what came of the others."""

    def __init__(self, builders: BuilderPool, job: Job, progress: Callable[[int], None]) -> None:
        self.folded = 0
        self.quarantined = 0
        self._builders = builders
        self._job = job
        self._progress = progress
        self._left = builders.ranges(job.streams)
        self._busy = 0
        self._changed = asyncio.Event()
        self._reached: dict[Range, float] = {}

    async def work(self) -> None:
        """Have one builder build ranges until none is left."""
        process = await self._builders.start(self._job)
        try:
            while (part := await self._next()) is not None:
                _say(process, msgspec.json.encode(part))
                try:
                    await self._build(process, part)
                finally:
                    self._busy -= 1
                    self._wake()
        finally:
            await _end(process)

    async def _next(self) -> Range | None:
        """A range to build; None when all are built. A range that is being built may yet be cut in parts."""
        while not self._left:
            if not self._busy:
                self._wake()
                return None
            await self._changed.wait()
        self._busy += 1
        return self._left.pop(0)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _build(self, process: asyncio.subprocess.Process, part: Range) -> None:
        while True:
            report = await _hear(process)
            if isinstance(report, Reached):
                self._reached[part] = report.position * part.share
            elif isinstance(report, Done):
                self.folded += report.built.folded
                self.quarantined += report.built.quarantined
                self._reached[part] = self._job.target * part.share
            elif isinstance(report, TooMany):
                self._left += part.split(report.parts)
                self._reached.pop(part, None)
            elif report.away:
                raise BuilderAwayError(problem=report.error)
            else:
                raise BuildFailedError(problem=report.error)
            self._progress(int(sum(self._reached.values())))
            if not isinstance(report, Reached):
                return


def _say(process: asyncio.subprocess.Process, line: bytes) -> None:
    if process.stdin is not None:
        process.stdin.write(line + b"\n")


async def _hear(process: asyncio.subprocess.Process) -> Report:
    line = b"" if process.stdout is None else await process.stdout.readline()
    if not line:
        raise BuilderDiedError(status=await process.wait())
    report: Report = _REPORT.decode(line)
    return report


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a builder now: what it has written counts only if it has said so."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
