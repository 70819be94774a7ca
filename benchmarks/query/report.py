"""The report of benchmarks.query."""

from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.harness.report import (
    AGAINST,
    Machine,
    Ratio,
    against_lines,
    machine_line,
    medians,
    other_programs,
    ratios,
    write_lines,
    write_ratios,
    write_table,
)
from benchmarks.query.streams import Streams
from benchmarks.query.whole_list import WholeList

BARE, LOOPLEDGER = "bare handler", "loopledger"

PAIRS = ((LOOPLEDGER, BARE), (AGAINST, BARE), (LOOPLEDGER, AGAINST))


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One load. Processor times are a request's; what deliveries take by themselves is taken off `cpu_http_us`."""

    question: str
    connections: int
    server: str
    round: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_http_us: float
    cpu_all_us: float
    other_cpus: float
    ingest_per_second: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The median of the rounds."""

    question: str
    connections: int
    server: str
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_http_us: float
    cpu_all_us: float
    ingest_per_second: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `bytes` are the sizes of the answers that the bare handler sends, by question."""

    machine: Machine
    load_after: tuple[float, float, float]
    events: int
    cards: int
    seconds: int
    rounds: int
    workers: int
    ingest: int
    ingest_cpu_us: float
    against: str | None
    bytes: dict[str, int]
    streams: Streams | None
    csv: WholeList | None
    runs: list[Run]
    results: list[Result]
    ratios: list[Ratio]


def results(runs: Sequence[Run]) -> list[Result]:
    """The medians of the rounds, by question, connections and server."""
    return list(medians(runs, ("question", "connections", "server"), Result))


def ratios_of(runs: Sequence[Run]) -> list[Ratio]:
    """The ratios of the rates, by question and connections."""
    rates = {
        (run.server, f"{run.question}, {run.connections}", run.round): run.per_second
        for run in runs
    }
    return ratios(rates, PAIRS)


def write(report: Report) -> None:
    """Write the report for people."""
    write_table(
        f"Answers, median of {report.rounds} x {report.seconds} s",
        (
            *("question", "connections", "server", "answers/s", "p50 ms", "p99 ms"),
            *("CPU http µs", "CPU all µs"),
        ),
        [
            (
                one.question,
                str(one.connections),
                one.server,
                f"{one.per_second:,.0f}",
                f"{one.p50_ms:,.2f}",
                f"{one.p99_ms:,.2f}",
                f"{one.cpu_http_us:,.0f}",
                f"{one.cpu_all_us:,.0f}",
            )
            for one in report.results
        ],
        left=3,
    )
    write_ratios("answers/s", report.ratios)
    write_lines(*_notes(report))


def _notes(report: Report) -> Iterator[str]:
    yield machine_line(report.machine, report.load_after)
    yield other_programs(run.other_cpus for run in report.runs)
    achieved = [run.ingest_per_second for run in report.runs]
    yield (
        f"{report.cards:,} cards, {report.events:,} events; {report.workers} worker(s), ingest at {report.ingest:,}/s "
        f"wanted, {min(achieved, default=0):,.0f} to {max(achieved, default=0):,.0f} achieved, "
        f"{report.ingest_cpu_us:,.0f} µs of CPU http each; fsync on"
    )
    if (told := report.streams) is not None:
        yield (
            f"{told.streams} filtered live streams told each of {told.events} events within "
            f"{told.p50_ms:,.0f} ms (p50), {told.p99_ms:,.0f} ms (p99), {told.max_ms:,.0f} ms (max) of its 200"
        )
    if (csv := report.csv) is not None:
        yield (
            f"{csv.rows:,} cards as CSV in {csv.seconds:,.1f} s: {csv.rows / csv.seconds:,.0f} rows/s; memory "
            f"{csv.memory_before / 2**20:,.0f} MiB before, {csv.memory_most / 2**20:,.0f} at most"
        )
    sizes = ", ".join(f"{name} {size:,}" for name, size in report.bytes.items())
    yield f"bytes of an answer: {sizes}"
    yield from against_lines(report.against, report.ratios)
