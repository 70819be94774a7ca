"""What it costs to count a delivery: by Loopledger, and by prometheus-client, in memory and in its multiprocess mode.

Processor time, since on a busy machine the time by the clock is that of others. One run compares both; the multiprocess
mode needs a process of its own: `python -m benchmarks.metrics` runs it.
"""

import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from datetime import UTC, datetime

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"

DELIVERIES = 20_000
ROUNDS = 25


def microseconds(count: Callable[[], None]) -> float:
    """Processor time of one call, in the quickest of all rounds."""
    rounds = timeit.repeat(count, number=DELIVERIES, repeat=ROUNDS, timer=time.process_time)
    return min(rounds) / DELIVERIES * 1e6


def compare(mode: str) -> None:
    """Count in both ways, and print what each costs."""
    # prometheus-client reads its mode from the environment when it is imported.
    import prometheus_client  # noqa: PLC0415

    from eventstore.metrics import SECONDS  # noqa: PLC0415
    from verification.delivery import Delivery  # noqa: PLC0415
    from web.ingest.counting import DeliveryCounts  # noqa: PLC0415

    counts = DeliveryCounts({"loopz": True}, ["unparsable"])
    delivery = Delivery("loopz", None, "", {}, (), datetime.now(UTC), since=time.perf_counter())
    # The labels are looked up once: that is most of what they cost.
    total = prometheus_client.Counter("n", "-", ["provider", "outcome"]).labels("loopz", "accepted")
    last = prometheus_client.Gauge("t", "-", ["provider"]).labels("loopz")
    seconds = prometheus_client.Histogram("s", "-", ["outcome"], buckets=SECONDS).labels("accepted")

    def theirs() -> None:
        total.inc()
        last.set(delivery.received_at.timestamp())
        seconds.observe(time.perf_counter() - delivery.since)

    ours = microseconds(lambda: counts.count_accepted(delivery))
    other = microseconds(theirs)
    sys.stdout.write(
        f"{mode:13} Loopledger {ours:.2f} us, prometheus-client {other:.2f} us: {other / ours:.1f} times\n"
    )


if __name__ == "__main__":
    if MULTIPROCESS in os.environ:
        compare("multiprocess")
    else:
        compare("in memory")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory() as directory:
            environ = {**os.environ, MULTIPROCESS: directory}
            command = [sys.executable, "-m", "benchmarks.metrics"]
            subprocess.run(command, env=environ, check=True)  # noqa: S603 - ourselves
