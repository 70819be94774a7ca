"""The report of benchmarks.lag."""

from collections.abc import Sequence

import msgspec

from benchmarks.harness.report import Machine, machine_line, percentile, write_lines, write_table


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `client_cpu` is the share of one CPU that this program took: near 1, it measured itself."""

    machine: Machine
    load_after: tuple[float, float, float]
    rate: float
    seconds: float
    workers: int
    verification: bool
    deliveries_per_second: float
    client_cpu: float
    answered: Times
    visible: Times


def times_of(seconds: Sequence[float]) -> Times:
    """Sum up how long something took each time."""
    return Times(
        count=len(seconds),
        p50_ms=percentile(seconds, 0.50) * 1000,
        p99_ms=percentile(seconds, 0.99) * 1000,
        max_ms=max(seconds, default=0.0) * 1000,
    )


def write(report: Report) -> None:
    """Write the report for people."""
    write_table(
        f"{report.rate:,.0f} deliveries/s for {report.seconds:g} s",
        ("", "count", "p50 ms", "p99 ms", "max ms"),
        [
            (
                name,
                f"{times.count:,}",
                f"{times.p50_ms:,.1f}",
                f"{times.p99_ms:,.1f}",
                f"{times.max_ms:,.1f}",
            )
            for name, times in (
                ("from its moment to the 200", report.answered),
                ("from the 200 to the state", report.visible),
            )
        ],
    )
    write_lines(
        machine_line(report.machine, report.load_after),
        f"loopledger: {report.workers} worker(s), signatures {'verified' if report.verification else 'NOT verified'}; "
        "fsync on",
        f"achieved {report.deliveries_per_second:,.0f} deliveries/s; this client took {report.client_cpu:.0%} of a CPU",
    )
