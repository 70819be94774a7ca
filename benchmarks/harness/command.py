"""What the command of every benchmark does: options, a scratch directory, a report, exit codes."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
import uvloop

from benchmarks.harness.progress import end_progress
from benchmarks.harness.server_process import StartError

R = TypeVar("R", bound=msgspec.Struct)

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


class BenchmarkError(Exception):
    """The numbers would be worth nothing."""


def fail(problem: str) -> NoReturn:
    """Give up. Raises BenchmarkError."""
    raise BenchmarkError(problem)


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m benchmarks.<name>`, which says what the module's docstring says."""
    summary, _, details = (doc or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="print only the report, as one JSON object"
    )
    return parser


def checkout(text: str) -> Path:
    """The type of an option: a directory with a Loopledger in it."""
    path = Path(text).resolve()
    if not (path / "server.py").is_file():
        message = f"no checkout of Loopledger: {path}"
        raise argparse.ArgumentTypeError(message)
    return path


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away afterwards; the unprivileged user of Postgres may pass through it."""
    directory = Path(tempfile.mkdtemp(prefix="ll-bench-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


async def until_stopped(work: Coroutine[Any, Any, R]) -> R:
    """Do the work of a command; SIGINT and SIGTERM cancel it, and with it everything that it started."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def run(
    measure: Coroutine[Any, Any, R], write: Callable[[R], None], given: argparse.Namespace
) -> int:
    """Measure, and write the report; gives back the exit code: 1 if a check failed, 130 if interrupted."""
    code = EXIT_FAILED
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(until_stopped(measure))
        end_progress()
        if given.json:
            encoded = msgspec.json.format(msgspec.json.encode(report), indent=2)
            sys.stdout.buffer.write(encoded + b"\n")
        else:
            write(report)
        code = 0
    except* (BenchmarkError, StartError) as errors:
        sys.stderr.write(f"benchmark: {errors.exceptions[0]}\n")
    except* asyncio.CancelledError:
        code = EXIT_INTERRUPTED
    return code
