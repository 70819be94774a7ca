"""Processes of a benchmark: started, waited for, measured, and ended whatever happens."""

import asyncio
import contextlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NoReturn

import psutil
import uvloop

ROOT = Path(__file__).parent.parent

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

START_SECONDS = 120.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.02
LOG_TAIL = 2_000

# What a server says once it can be reached.
RUNNING = re.compile(r"running at (http://\S+)")


class BenchmarkError(Exception):
    """The numbers would be worth nothing."""


def fail(problem: str) -> NoReturn:
    """Give up. Raises BenchmarkError."""
    raise BenchmarkError(problem)


def run(benchmark: Coroutine[None, None, int]) -> int:
    """Run a benchmark; gives back its exit code. SIGINT and SIGTERM end it with everything that it started."""

    async def interruptible() -> int:
        task = asyncio.ensure_future(benchmark)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        return await task

    code = EXIT_FAILED
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(interruptible())
    except* BenchmarkError as errors:
        sys.stderr.write(f"benchmark: {errors.exceptions[0]}\n")
    except* asyncio.CancelledError:
        code = EXIT_INTERRUPTED
    return code


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away afterwards; the unprivileged user of Postgres may pass through it."""
    directory = Path(tempfile.mkdtemp(prefix="ll-bench-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@asynccontextmanager
async def server(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Run a Python program that serves: its URL and its process. Raises BenchmarkError if it does not come up."""
    process = _spawn(command, log, environ)
    try:
        yield await _url(process, log), psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _spawn(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - the servers that it measures
            [sys.executable, *command],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A Ctrl-C reaches the benchmark only, which then stops its servers in order.
            start_new_session=True,
        )


async def _url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if match := RUNNING.search(_read(log)):
            return match[1]
        await asyncio.sleep(LOOK_SECONDS)
    fail(f"a server did not come up: {tail(log)}")


def _read(log: Path) -> str:
    return log.read_text(errors="replace")


def tail(log: Path) -> str:
    """The end of what a server said."""
    return _read(log)[-LOG_TAIL:]


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """The CPU time that processes have taken; that of children that have ended counts with their parent."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def busy_seconds() -> float:
    """The CPU time that the whole machine has spent, whoever on."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def own_seconds() -> float:
    """The CPU time of this program and of its children that have ended, such as wrk."""
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on: on a tmpfs, fsync would cost nothing."""
    mounts = {each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)}
    for place in (directory.resolve(), *directory.resolve().parents):
        if str(place) in mounts:
            return mounts[str(place)]
    return "unknown"
