"""The report of benchmarks.ingest."""

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

# The name of a Loopledger with a long log.
FULL = "full"

# The name of one of which every worker appends.
APART = "apart"

# Whose rate is compared with whose.
PAIRS = (
    ("loopledger", "limit"),
    ("loopledger", "insert"),
    ("loopledger", "eventsourcing"),
    (FULL, "loopledger"),
    ("loopledger", AGAINST),
    ("loopledger", APART),
)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a server: medians of the rounds. CPU times are microseconds for each delivery."""

    server: str
    connections: int
    deliveries_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_http_us: float
    cpu_all_us: float
    folded_after_seconds: float | None


class Run(Result, frozen=True, kw_only=True):
    """The same of one load. `other_cpus` is what programs that have no part in it took meanwhile."""

    round: int
    answers: int
    other_cpus: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `heads` and `acknowledged`: by Loopledger, what is on record, and how many 200s wrk saw."""

    machine: Machine
    load_after: tuple[float, float, float]
    seconds: int
    rounds: int
    workers: int
    verification: bool
    fsync: bool
    events_on_record: int
    against: str | None
    left_out: dict[str, str]
    heads: dict[str, int]
    acknowledged: dict[str, int]
    runs: list[Run]
    results: list[Result]
    ratios: list[Ratio]


def results(runs: Sequence[Run]) -> list[Result]:
    """The medians of the rounds, by connections and server."""
    return list(medians(runs, ("server", "connections"), Result))


def ratios_of(runs: Sequence[Run]) -> list[Ratio]:
    """The ratios of the rates, by connections."""
    rates = {
        (run.server, f"{run.connections} connections", run.round): run.deliveries_per_second
        for run in runs
    }
    return ratios(rates, PAIRS)


def write(report: Report) -> None:
    """Write the report for people."""
    write_table(
        f"Deliveries taken, median of {report.rounds} x {report.seconds} s",
        (
            "connections",
            "server",
            "deliveries/s",
            "p50 ms",
            "p99 ms",
            "CPU http µs",
            "CPU all µs",
            "folded after s",
        ),
        [
            (
                str(result.connections),
                result.server,
                f"{result.deliveries_per_second:,.0f}",
                f"{result.p50_ms:,.2f}",
                f"{result.p99_ms:,.2f}",
                f"{result.cpu_http_us:,.0f}",
                f"{result.cpu_all_us:,.0f}",
                number(result.folded_after_seconds, ",.1f"),
            )
            for result in report.results
        ],
        left=2,
    )
    write_ratios("deliveries/s", report.ratios)
    write_lines(*_notes(report))


def _notes(report: Report) -> Iterator[str]:
    yield machine_line(report.machine, report.load_after)
    yield other_programs(run.other_cpus for run in report.runs)
    yield (
        f"loopledger: {report.workers} worker(s), signatures {'verified' if report.verification else 'NOT verified'}; "
        "fsync on everywhere"
    )
    yield from (f"{name} is left out: {reason}" for name, reason in report.left_out.items())
    for name, head in report.heads.items():
        yield f"{name}: head {head:,}, {report.acknowledged[name]:,} answered with 200 in this run"
    if report.events_on_record:
        yield f"{FULL}: {report.events_on_record:,} events before it started"
    yield from against_lines(report.against, report.ratios)
