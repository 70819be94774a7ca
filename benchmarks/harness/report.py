"""What reports are made of: the machine, medians and ratios of rounds, tables."""

import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

R = TypeVar("R", bound=msgspec.Struct)

# The name under which a Loopledger of another checkout is measured.
AGAINST = "against"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured. `load` are the averages of 1, 5 and 15 minutes when it began."""

    system: str
    python: str
    cpus: int
    load: tuple[float, float, float]
    file_system: str


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How the rate of `name` compares with that of another: the median of the ratios within each of the `rounds`."""

    name: str
    beside: str
    at: str
    ratio: float
    rounds: list[float]


def this_machine(data: Path) -> Machine:
    """The machine at hand; the databases lie below `data`."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cpus=os.cpu_count() or 0,
        load=os.getloadavg(),
        file_system=_file_system(data),
    )


def _file_system(directory: Path) -> str:
    """The type of the file system that a directory is on: on a tmpfs, fsync would cost nothing."""
    mounts = {each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)}
    for place in (directory.resolve(), *directory.resolve().parents):
        if str(place) in mounts:
            return mounts[str(place)]
    return "unknown"


def machine_line(machine: Machine, load_after: tuple[float, float, float]) -> str:
    """A note on the machine, and how busy it was."""
    return (
        f"{machine.system}, {machine.cpus} CPUs, Python {machine.python}, data on {machine.file_system}; "
        f"load {machine.load[0]:.1f} before, {load_after[0]:.1f} after"
    )


def other_programs(cpus: Iterable[float]) -> str:
    """A note on what programs that have no part in it took during each run."""
    taken = list(cpus)
    return f"other programs took {number(middle(taken), '.1f')} CPUs meanwhile, at most {max(taken, default=0):.1f}"


def medians(runs: Sequence[msgspec.Struct], by: Sequence[str], result: type[R]) -> Iterator[R]:
    """The medians of the rounds: a `result` for all runs that agree in the fields `by`, in order of appearance."""
    groups: dict[tuple[Any, ...], list[msgspec.Struct]] = {}
    for run in runs:
        groups.setdefault(tuple(getattr(run, name) for name in by), []).append(run)
    measured = [name for name in result.__struct_fields__ if name not in by]
    for key, rounds in groups.items():
        values = {name: middle(getattr(run, name) for run in rounds) for name in measured}
        yield result(**dict(zip(by, key, strict=True)), **values)


def ratios(
    rates: Mapping[tuple[str, str, int], float], pairs: Iterable[tuple[str, str]]
) -> list[Ratio]:
    """How the rates of each pair compare, wherever both were measured.

    `rates` are by who was measured, at what, and in which round. What else the machine does changes between rounds.
    """
    found = []
    for name, beside in pairs:
        for at in dict.fromkeys(at for who, at, _ in rates if who == name):
            rounds = [
                rate / rates[beside, at, round_]
                for (who, what, round_), rate in rates.items()
                if (who, what) == (name, at) and (beside, at, round_) in rates
            ]
            if rounds:
                ratio = Ratio(name=name, beside=beside, at=at, ratio=median(rounds), rounds=rounds)
                found.append(ratio)
    return found


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


def write_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> None:
    """Write a table; after the first `left` columns come numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def write_ratios(rate: str, found: Sequence[Ratio]) -> None:
    """Write the table of the ratios of a rate."""
    ratios = {(f"{each.name} / {each.beside}", each.at): each.ratio for each in found}
    places = list(dict.fromkeys(each.at for each in found))
    write_table(
        f"Ratios of {rate}, median of the rounds",
        ("", *places),
        [
            (pair, *(number(ratios.get((pair, at)), ".2f") for at in places))
            for pair in dict.fromkeys(pair for pair, _ in ratios)
        ],
    )


def against_lines(checkout: str | None, found: Iterable[Ratio]) -> Iterator[str]:
    """Notes on how the Loopledger of another checkout compares, round by round."""
    if checkout is not None:
        yield f"{AGAINST}: the Loopledger of {checkout}"
    for each in found:
        if each.beside == AGAINST:
            rounds = " ".join(f"{ratio:.2f}" for ratio in each.rounds)
            yield f"{each.name} / {AGAINST}, {each.at}, round by round: {rounds}"


def write_lines(*lines: str) -> None:
    """Write notes below a table."""
    _console().print(*lines, sep="\n")


def _console() -> Console:
    """Standard output; where it is no terminal, no line is cut."""
    width = None if sys.stdout.isatty() else 200
    return Console(highlight=False, markup=False, soft_wrap=True, width=width)
