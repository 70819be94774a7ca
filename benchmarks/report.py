"""What a benchmark says: progress on standard error, then tables or one JSON object on standard output."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from time import strftime
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.processes import file_system

R = TypeVar("R", bound=msgspec.Struct)


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m benchmarks.<name>`, which says what the module's docstring says."""
    summary, _, details = (doc or "").partition("\n")
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured. `load` are the averages of 1, 5 and 15 minutes when it began."""

    system: str
    python: str
    cpus: int
    load: tuple[float, float, float]
    file_system: str


def this_machine(data: Path) -> Machine:
    """The machine at hand; the databases lie below `data`."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cpus=os.cpu_count() or 0,
        load=os.getloadavg(),
        file_system=file_system(data),
    )


def show_progress(text: str) -> None:
    """Say what is going on: one line on a terminal, lines elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
    else:
        sys.stderr.write(f"{strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def end_progress() -> None:
    """Take the line off the terminal again."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")


def tell(report: R, write: Callable[[R], None], *, as_json: bool) -> None:
    """End the progress, and write the report: in the benchmark's own way, or the whole as one JSON object."""
    end_progress()
    if as_json:
        write_json(report)
    else:
        write(report)


def write_json(report: msgspec.Struct) -> None:
    """Write the whole report as one JSON object."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def write_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> None:
    """Write a table; after the first `left` columns come numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def write_lines(*lines: str) -> None:
    """Write notes below a table."""
    console().print(*lines, sep="\n")


def console() -> Console:
    """Standard output; where it is no terminal, no line is cut."""
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, soft_wrap=True, width=width)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what is there."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)
