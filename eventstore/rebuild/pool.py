"""Builder processes: each builds one range of a new generation at a time.

A builder lives as long as its standard input is open, so that it never outlives the process that started it.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from eventstore.errors import LoopledgerError
from eventstore.rebuild.messages import (
    BuildCounts,
    Done,
    Job,
    Range,
    Reached,
    Report,
    TooMany,
)
from eventstore.tasks import run_all

# A report is a short line, unless it quotes an error.
LONGEST_LINE = 1024 * 1024

# Streams are not spread quite evenly, and there may be more of them than before: a range that proves too large has been
# built in vain.
ROOM = 1.2

# Unless more are asked for: each holds states in memory and reads the whole log for its share of it.
MOST_PROCESSES = 8

_REPORT = msgspec.json.Decoder(Report)


class BuildFailedError(LoopledgerError):
    """The new generation could not be built: {problem}."""


class BuilderDiedError(LoopledgerError):
    """A builder process died (status {status})."""


class BuilderLostPostgresError(LoopledgerError, ConnectionError):
    """A builder lost Postgres: {problem}"""  # noqa: D400 - the problem ends it


class BuilderPool:
    """Starts builder processes, each of which may hold `streams` in memory at a time.

    `command` runs one; `settings` are `BuilderSettings` as JSON.
    """

    def __init__(
        self, command: Sequence[str], settings: bytes, *, processes: int, streams: int
    ) -> None:
        self._command = command
        self._settings = settings
        self._streams = streams
        # Those that run now.
        self.pids: set[int] = set()
        self.processes = processes or min(os.cpu_count() or 1, MOST_PROCESSES)

    def ranges(self, streams: int) -> list[Range]:
        """Cut so many streams into ranges that can be held in memory, as many for each builder."""
        passes = -(-int(streams * ROOM) // (self._streams * self.processes))
        return Range().split(self.processes * max(1, passes))

    async def build_ranges(self, job: Job, on_progress: Callable[[int], None]) -> BuildCounts:
        """Have all ranges of a generation built; `on_progress` gets how many events' worth is done.

        Raises BuildFailedError, and BuilderDiedError when trying again may help. No builder is left behind.
        """
        return await self._build(job, self.ranges(job.streams), on_progress)

    async def build_second_pass(self, job: Job) -> BuildCounts:
        """Have those streams folded again that events of other ranges belong to: see SecondPass. Raises as above."""
        ranges = Range(second_pass=True).split(self.processes)
        return await self._build(job, ranges, lambda _: None)

    async def _build(
        self, job: Job, ranges: list[Range], on_progress: Callable[[int], None]
    ) -> BuildCounts:
        work = _RangeQueue(ranges, job.target, on_progress)
        await run_all(*(self._run_builder(job, work) for _ in range(self.processes)))
        return work.counts

    async def _run_builder(self, job: Job, work: "_RangeQueue") -> None:
        """Have one builder build ranges until none is left."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        self.pids.add(process.pid)
        try:
            _send(process, self._settings)
            _send(process, msgspec.json.encode(job))
            while (range_ := await work.next()) is not None:
                try:
                    _send(process, msgspec.json.encode(range_))
                    while not work.on_report(range_, await _receive(process)):
                        pass
                finally:
                    work.put_down()
        finally:
            self.pids.discard(process.pid)
            await _kill(process)


class _RangeQueue:
    """The ranges of a generation that are left to be built, and what came of the others."""

    def __init__(
        self, ranges: list[Range], target: int, on_progress: Callable[[int], None]
    ) -> None:
        self.counts = BuildCounts(0, 0)
        self._left = ranges
        self._target = target
        self._on_progress = on_progress
        self._busy = 0
        self._changed = asyncio.Event()
        # Events' worth of each range.
        self._reached: dict[Range, float] = {}

    async def next(self) -> Range | None:
        """A range to build; None when all are built. A range that is being built may yet be cut into parts."""
        while not self._left:
            if not self._busy:
                return None
            await self._changed.wait()
        self._busy += 1
        return self._left.pop(0)

    def put_down(self) -> None:
        """A range that somebody took is no longer being built."""
        self._busy -= 1
        self._changed.set()
        self._changed = asyncio.Event()

    def on_report(self, range_: Range, report: Report) -> bool:
        """Take note of a report; True if it is the last of its range. Raises BuildFailedError."""
        match report:
            case Reached():
                self._reached[range_] = report.position * range_.share
            case Done():
                self.counts += report.counts
                self._reached[range_] = self._target * range_.share
            case TooMany():
                self._left += range_.split(report.parts)
                self._reached.pop(range_, None)
            case _ if report.transient:
                raise BuilderLostPostgresError(problem=report.error)
            case _:
                raise BuildFailedError(problem=report.error)
        self._on_progress(int(sum(self._reached.values())))
        return not isinstance(report, Reached)


def _send(process: asyncio.subprocess.Process, line: bytes) -> None:
    if process.stdin is not None:
        process.stdin.write(line + b"\n")


async def _receive(process: asyncio.subprocess.Process) -> Report:
    line = b"" if process.stdout is None else await process.stdout.readline()
    if not line:
        raise BuilderDiedError(status=await process.wait())
    report: Report = _REPORT.decode(line)
    return report


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a builder: what it has written counts only once it has reported that."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
