"""The table of all metrics: name, type, labels, help, and how the values of several processes become one.

Names follow the conventions of Prometheus. A new one belongs in the table of docs/operations.md too; a test compares.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from eventstore.metrics import EVENTS, SECONDS, Values

PREFIX = "loopledger_"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. `bounds` are the buckets of a histogram.

    `merge` says what several processes make of a gauge: their sum or the largest value. "latest" is the largest value
    too, and stays when a process ends, as counters and histograms do.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    merge: Literal["sum", "max", "latest"] = "sum"

    @property
    def outlives_its_process(self) -> bool:
        """Whether what a process has reported stands when it ends."""
        return self.kind != "gauge" or self.merge == "latest"


def _counter(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name=f"{PREFIX}{name}", kind="counter", help=help_, labels=labels)


def _gauge(
    name: str, help_: str, *labels: str, merge: Literal["sum", "max", "latest"] = "sum"
) -> Metric:
    return Metric(name=f"{PREFIX}{name}", kind="gauge", help=help_, labels=labels, merge=merge)


def _histogram(name: str, help_: str, bounds: tuple[float, ...], *labels: str) -> Metric:
    return Metric(
        name=f"{PREFIX}{name}", kind="histogram", help=help_, labels=labels, bounds=bounds
    )


# Counted in memory by each process.
DELIVERIES = _counter(
    "deliveries_total",
    "Deliveries by what became of them: accepted, or the name of the problem.",
    "provider",
    "outcome",
    "sender",
)
DELIVERY_DURATION = _histogram(
    "delivery_duration_seconds",
    "From the complete head of a delivery to its response; accepted: after COMMIT.",
    SECONDS,
    "outcome",
)
LAST_ACCEPTED = _gauge(
    "delivery_last_accepted_timestamp_seconds",
    "When the newest delivery on record came in.",
    "provider",
    merge="latest",
)
LAST_VERIFIED = _gauge(
    "delivery_last_verified_timestamp_seconds",
    "When a delivery passed verification last, whatever became of it then.",
    "provider",
    merge="latest",
)
COMMIT_DURATION = _histogram(
    "append_commit_duration_seconds", "One commit of a batch of deliveries.", SECONDS
)
BATCH_EVENTS = _histogram("append_batch_events", "Events in one commit.", EVENTS)
QUEUE_DELIVERIES = _gauge("append_queue_deliveries", "Deliveries that wait for their commit.")
QUEUE_BYTES = _gauge("append_queue_bytes", "Bytes of the deliveries that wait for their commit.")
QUEUE_UTILIZATION = _gauge(
    "append_queue_utilization_ratio",
    "How full the fullest queue of a process is, from 0 to 1, where deliveries get a 503.",
    merge="max",
)
APPENDS_REFUSED = _gauge(
    "appends_refused",
    "1 if the database takes no appends until somebody sees to it, else 0.",
    merge="max",
)
APPEND_OUTAGE = _gauge(
    "append_outage", "1 if the last append failed and is tried again, else 0.", merge="max"
)
CONNECTIONS = _gauge(
    "connections",
    "Open connections: of known senders, who have brought a verified delivery, and of strangers.",
    "class",
)
CONNECTIONS_CLOSED = _counter(
    "connections_closed_total",
    "Connections that the server closed: refused, given way to others, responses unread, no proper head.",
    "reason",
)
CONNECTIONS_LIMIT = _gauge("connections_limit", "How many connections may be open.")
REJECTIONS_DROPPED = _counter(
    "rejections_dropped_total",
    "Refused requests that were not put on record, because there were too many.",
    "sender",
)
WORKER_RESTARTS = _counter(
    "worker_restarts_total", "How often a worker died and was started again.", "process"
)
BUILD_INFO = _gauge(
    "build_info", "1, with the versions that run.", "version", "python", merge="max"
)
PROCESS_START = _gauge(
    "process_start_time_seconds", "When a process was started.", "process", merge="max"
)
PROCESS_MEMORY = _gauge(
    "process_resident_memory_bytes", "Memory of a process.", "process", merge="max"
)
PROCESS_CPU = _counter(
    "process_cpu_seconds_total", "Processor time that a process has used.", "process"
)
BUILDERS = _gauge("rebuild_builders", "Processes that build the new generations of rebuilds.")
BUILDERS_MEMORY = _gauge("rebuild_builders_resident_memory_bytes", "Memory of these together.")

# Read from the database, when asked.
DATABASE_UP = _gauge("database_up", "1 if the database has answered for these metrics, else 0.")
DATABASE_INFO = _gauge("database_info", "1, with the version of Postgres.", "version")
DATABASE_BYTES = _gauge("database_size_bytes", "What the database takes on disk, without WAL.")
DATABASE_READY = _gauge("database_ready", "1 if the database can take deliveries, else 0.")
LOG_INTACT = _gauge("log_intact", "0 if an event is missing, or head and events disagree, else 1.")
HEAD = _gauge("log_head_position", "The newest position of the log.")
LAST_RECORDED = _gauge(
    "log_last_recorded_timestamp_seconds", "When the newest event of the log was recorded."
)
CHECKPOINT = _gauge(
    "projection_checkpoint_position", "How far the live generation has folded.", "projection"
)
LAG_EVENTS = _gauge(
    "projection_lag_events", "Events that the live generation has yet to fold.", "projection"
)
LAG_SECONDS = _gauge(
    "projection_lag_seconds",
    "How long the oldest event that is not folded has waited; 0 without one.",
    "projection",
)
PROJECTION_EVENTS = _gauge(
    "projection_events",
    "Events up to the checkpoint: folded, ignored or quarantined. Another generation has other numbers.",
    "projection",
    "result",
)
COMPLETE = _gauge(
    "projection_complete",
    "1 if folded + ignored + quarantined is the checkpoint, else 0.",
    "projection",
)
STUCK = _gauge(
    "projection_stuck", "1 if an event has waited for more than 30 s, else 0.", "projection"
)
HELD_UP = _gauge("projection_held_up", "1 if an error holds it up, else 0.", "projection")
STALE = _gauge(
    "projection_stale", "1 if other code or settings folded it than run now, else 0.", "projection"
)
GENERATION = _gauge(
    "projection_live_generation", "The number of the live generation.", "projection"
)
REBUILD_STATUS = _gauge(
    "rebuild_status", "1 for the status of the rebuild under way, else 0.", "projection", "status"
)
REBUILD_PROGRESS = _gauge(
    "rebuild_progress_ratio", "How much of the rebuild under way is built, 0 to 1.", "projection"
)
REBUILD_TARGET = _gauge(
    "rebuild_target_position", "Up to where it is built before it follows the log.", "projection"
)
REBUILD_LAG = _gauge(
    "rebuild_lag_events", "Events that the rebuild under way has yet to fold.", "projection"
)

METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in list(globals().values()) if isinstance(metric, Metric)
}

# What a process ends with, added up: none of it may get less.
LASTING = frozenset(name for name, metric in METRICS.items() if metric.outlives_its_process)


def merge(reports: Iterable[Values]) -> Values:
    """Make one of the values of several processes."""
    merged: Values = {}
    for report in reports:
        for name, samples in report.items():
            metric = METRICS[name]
            largest = metric.kind == "gauge" and metric.merge != "sum"
            known = merged.setdefault(name, {})
            for labels, numbers in samples.items():
                before = known.get(labels)
                if before is None:
                    known[labels] = numbers
                elif largest:
                    known[labels] = [max(*pair) for pair in zip(before, numbers, strict=True)]
                else:
                    known[labels] = [sum(pair) for pair in zip(before, numbers, strict=True)]
    return merged


def lasting(report: Values) -> Values:
    """What stands of the values of a process that has ended."""
    return {name: samples for name, samples in report.items() if name in LASTING}
