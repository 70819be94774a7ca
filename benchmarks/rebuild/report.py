"""The report of benchmarks.rebuild."""

from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.harness.report import (
    AGAINST,
    Machine,
    Ratio,
    against_lines,
    machine_line,
    medians,
    number,
    other_programs,
    ratios,
    write_lines,
    write_ratios,
    write_table,
)

LIMIT, SQL, LOOPLEDGER = "limit", "sql", "loopledger"
WITHOUT_TIMELINES, LIBRARY = "no timelines", "eventsourcing"

# Whose rate is compared with whose.
PAIRS = (
    (LOOPLEDGER, SQL),
    (LOOPLEDGER, LIMIT),
    (LOOPLEDGER, LIBRARY),
    (WITHOUT_TIMELINES, SQL),
    (WITHOUT_TIMELINES, LIMIT),
    (LOOPLEDGER, WITHOUT_TIMELINES),
    (LOOPLEDGER, AGAINST),
)
# The limit is the same for every projection.
ALL = "all"

MIB = 1024 * 1024


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a way: medians of the rounds.

    `events` are those of the whole log, whether or not they concern the projection. Memory is at its peak, that of
    Postgres apart; `diff_seconds` is what comparing with the live generation took besides.
    """

    way: str
    projection: str
    events: int
    seconds: float
    events_per_second: float
    cpu_seconds: float
    program_bytes: float | None
    postgres_bytes: float
    diff_seconds: float | None = None


class Run(Result, frozen=True, kw_only=True):
    """The same of one go. `other_cpus` is what programs that have no part in it took meanwhile."""

    round: int
    other_cpus: float


class Sameness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether somebody's rows are those that they should be, in all columns that people see."""

    way: str
    projection: str
    rows: int
    wanted_rows: int
    same: bool


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """How soon the live fold of all projections had caught up with the log, counted from the server's start."""

    seconds: float
    events_per_second: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One log. `log_bytes`: what reading all of it brings."""

    machine: Machine
    load_after: tuple[float, float, float]
    events: int
    cards: int
    transactions: int
    library_events: int
    rounds: int
    fsync: bool
    load_seconds: float
    log_bytes: int
    live: Live
    live_against: Live | None
    against: str | None
    left_out: dict[str, str]
    sameness: list[Sameness]
    runs: list[Run]
    results: list[Result]
    ratios: list[Ratio]


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of several sizes, one after the other."""

    sizes: list[Report]


def results(runs: Sequence[Run]) -> list[Result]:
    """The medians of the rounds, by way and projection."""
    return list(medians(runs, ("way", "projection", "events"), Result))


def ratios_of(runs: Sequence[Run]) -> list[Ratio]:
    """The ratios of the rates, by projection."""
    projections = {run.projection for run in runs}
    rates = {
        (run.way, projection, run.round): run.events_per_second
        for run in runs
        for projection in (projections if run.projection == ALL else {run.projection})
    }
    return ratios(rates, PAIRS)


def write(report: Report) -> None:
    """Write the report for people."""
    write_table(
        f"Rebuilds of a log of {report.events:,} events ({report.cards:,} cards, "
        f"{report.transactions:,} transactions), median of {report.rounds}",
        ("way", "projection", "events/s", "seconds", "CPU s", "MiB", "pg MiB"),
        [
            (
                result.way,
                result.projection,
                f"{result.events_per_second:,.0f}",
                f"{result.seconds:,.2f}",
                f"{result.cpu_seconds:,.1f}",
                number(_mib(result.program_bytes), ",.0f"),
                number(_mib(result.postgres_bytes), ",.0f"),
            )
            for result in report.results
        ],
        left=2,
    )
    write_ratios("events/s", report.ratios)
    write_lines(*_notes(report))


def _notes(report: Report) -> Iterator[str]:
    yield machine_line(report.machine, report.load_after)
    yield other_programs(run.other_cpus for run in report.runs)
    yield "events/s: events of the whole log a second, whichever of them the projection is about"
    yield "MiB: all processes of the program at their peak; pg MiB: its Postgres, fsync on"
    if LIBRARY not in report.left_out:
        yield f"eventsourcing was given the first {report.library_events:,} events"
    yield _live_line("live folding of all projections", report.events, report.live)
    if report.live_against is not None:
        yield _live_line(f"{AGAINST}: live folding", report.events, report.live_against)
    yield (
        f"loaded in {report.load_seconds:,.1f} s; to read it brings {report.log_bytes / MIB:,.0f} MiB"
    )
    diffs = ", ".join(
        f"{result.projection} {number(result.diff_seconds, '.2f')} s"
        for result in report.results
        if result.way == LOOPLEDGER
    )
    yield f"every rebuild was what the live fold had made: its diff was empty ({diffs} to see that)"
    yield from (f"{name} is left out: {reason}" for name, reason in report.left_out.items())
    yield from against_lines(report.against, report.ratios)
    for each in report.sameness:
        if each.same:
            yield f"{each.way} {each.projection}: its {each.rows:,} rows are the same, in all columns that people see"
        else:
            yield (
                f"{each.way} {each.projection}: NOT THE SAME ({each.rows:,} rows, wanted {each.wanted_rows:,}): "
                "its numbers are no fair comparison"
            )


def _live_line(what: str, events: int, live: Live) -> str:
    return (
        f"{what} caught up at {live.events_per_second:,.0f} events/s: {events:,} in {live.seconds:,.1f} s "
        "from the server's start"
    )


def write_growth(growth: Growth) -> None:
    """Write how the cost grows with the log, after the reports of each size."""
    for report in growth.sizes:
        write(report)
    rows = dict.fromkeys((r.way, r.projection) for report in growth.sizes for r in report.results)
    by_size = [
        {(r.way, r.projection): r.events_per_second for r in report.results}
        for report in growth.sizes
    ]
    write_table(
        "Events/s, by the size of the log",
        ("way", "projection", *(f"{report.events:,}" for report in growth.sizes)),
        [
            (way, projection, *(number(found.get((way, projection)), ",.0f") for found in by_size))
            for way, projection in rows
        ],
        left=2,
    )


def _mib(size: float | None) -> float | None:
    return None if size is None else size / MIB
