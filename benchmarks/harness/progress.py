"""How far something is: a line or a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# A bar that moves more often would cost what is being measured.
REFRESHES_PER_SECOND = 2.0
LINE_SECONDS = 10.0


def show_progress(text: str) -> None:
    """Say what is going on: one line on a terminal, lines elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
    else:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def end_progress() -> None:
    """Take the line off the terminal again."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show what goes on, and how far it is of `total` whenever told; without a total, only for how long."""
    if not sys.stderr.isatty():
        show_progress(title)
        yield _Lines(title, total)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=REFRESHES_PER_SECOND,
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


class _Lines:
    """A line now and then."""

    def __init__(self, title: str, total: float | None) -> None:
        self._title = title
        self._total = total
        self._next = time.monotonic() + LINE_SECONDS

    def __call__(self, done: float) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            of = f" of {self._total:,.0f}" if self._total is not None else ""
            show_progress(f"{self._title}: {done:,.0f}{of}")
