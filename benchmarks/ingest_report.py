"""The report of benchmarks.ingest."""

from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.report import Machine, middle, number, write_lines, write_table

# Whose rate is compared with whose.
PAIRS = (
    ("loopledger", "limit"),
    ("loopledger", "insert"),
    ("loopledger", "eventsourcing"),
    ("full", "loopledger"),
)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one server. `other_cpus` is what programs that have no part in it took meanwhile."""

    server: str
    connections: int
    round: int
    answers: int
    deliveries_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_http_us: float
    cpu_all_us: float
    other_cpus: float
    folded_after_seconds: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The medians of the rounds."""

    server: str
    connections: int
    deliveries_per_second: float | None
    p50_ms: float | None
    p99_ms: float | None
    cpu_http_us: float | None
    cpu_all_us: float | None
    folded_after_seconds: float | None


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How one server's rate compares with another's, the median of the rounds."""

    server: str
    beside: str
    connections: int
    ratio: float | None


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
    left_out: dict[str, str]
    heads: dict[str, int]
    acknowledged: dict[str, int]
    runs: list[Run]
    results: list[Result]
    ratios: list[Ratio]


def results(runs: Sequence[Run]) -> Iterator[Result]:
    """The medians of the rounds, by connections and server."""
    for connections in dict.fromkeys(run.connections for run in runs):
        for server in dict.fromkeys(run.server for run in runs):
            rounds = [r for r in runs if (r.server, r.connections) == (server, connections)]
            yield Result(
                server=server,
                connections=connections,
                deliveries_per_second=middle(r.deliveries_per_second for r in rounds),
                p50_ms=middle(r.p50_ms for r in rounds),
                p99_ms=middle(r.p99_ms for r in rounds),
                cpu_http_us=middle(r.cpu_http_us for r in rounds),
                cpu_all_us=middle(r.cpu_all_us for r in rounds),
                folded_after_seconds=middle(r.folded_after_seconds for r in rounds),
            )


def ratios(runs: Sequence[Run]) -> Iterator[Ratio]:
    """The ratios, by connections."""
    rates = {(r.server, r.connections, r.round): r.deliveries_per_second for r in runs}
    rounds = {r.round for r in runs}
    servers = {r.server for r in runs}
    for server, beside in PAIRS:
        if {server, beside} <= servers:
            for connections in dict.fromkeys(run.connections for run in runs):
                found = (
                    rates[server, connections, round_] / rates[beside, connections, round_]
                    for round_ in rounds
                )
                yield Ratio(
                    server=server, beside=beside, connections=connections, ratio=middle(found)
                )


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
                number(result.deliveries_per_second, ",.0f"),
                number(result.p50_ms, ",.2f"),
                number(result.p99_ms, ",.2f"),
                number(result.cpu_http_us, ",.0f"),
                number(result.cpu_all_us, ",.0f"),
                number(result.folded_after_seconds, ",.1f"),
            )
            for result in report.results
        ],
        left=2,
    )
    pairs = dict.fromkeys(f"{ratio.server} / {ratio.beside}" for ratio in report.ratios)
    found = {(f"{r.server} / {r.beside}", r.connections): r.ratio for r in report.ratios}
    write_table(
        "Ratios of deliveries/s, median of the rounds",
        ("connections", *pairs),
        [
            (str(connections), *(number(found[pair, connections], ".2f") for pair in pairs))
            for connections in dict.fromkeys(ratio.connections for ratio in report.ratios)
        ],
    )
    machine = report.machine
    before, after = machine.load[0], report.load_after[0]
    others = [run.other_cpus for run in report.runs]
    write_lines(
        f"{machine.system}, {machine.cpus} CPUs, Python {machine.python}, data on {machine.file_system}; "
        f"load {before:.1f} before, {after:.1f} after",
        f"other programs took {number(middle(others), '.1f')} CPUs meanwhile, at most {max(others):.1f}",
        f"loopledger: {report.workers} worker(s), signatures {'verified' if report.verification else 'NOT verified'}; "
        "fsync on everywhere",
        *(f"{name} is left out: {reason}" for name, reason in report.left_out.items()),
        *(
            f"{name}: head {head:,}, {report.acknowledged[name]:,} answered with 200 in this run"
            for name, head in report.heads.items()
        ),
        *(
            [f"full: {report.events_on_record:,} events before it started"]
            if report.events_on_record
            else []
        ),
    )
