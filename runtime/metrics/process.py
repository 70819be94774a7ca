"""The values of one process. Its parts are read only when asked for, so counting is a mere addition."""

import importlib.metadata
import platform
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import psutil

from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.relay_client import RelayingAppender
from eventstore.metrics import Values
from eventstore.rejections import Rejections
from runtime.metrics import definitions as names
from web.ingest.connections import ConnectionServer
from web.ingest.counting import DeliveryCounts

# Why the server closes a connection by itself, as the limits count it.
CLOSED = ("refused", "gave_way", "unread", "head_too_slow", "head_too_large", "malformed")


class ProcessValues:
    """The values of this process, which goes by `process` in labels; `add` adds a part of it."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._psutil = psutil.Process()
        self._start = self._psutil.create_time()
        self._parts: list[Callable[[], Values]] = []

    def add(self, read: Callable[[], Values]) -> None:
        """Have `read` called whenever the values are asked for."""
        self._parts.append(read)

    def read(self) -> Values:
        """The values of all parts, and those of the process itself."""
        values: Values = {}
        # A system may show a process less of itself than usual, after it has given up being root above all.
        with suppress(psutil.Error):
            values |= self._read_process()
        for read in self._parts:
            values |= read()
        return values

    def _read_process(self) -> Values:
        # Not how many files it has open: to list those of ten thousand connections takes ten milliseconds.
        process = (self._process,)
        with self._psutil.oneshot():
            cpu = self._psutil.cpu_times()
            memory = self._psutil.memory_info().rss
        return {
            names.PROCESS_START.name: {process: [self._start]},
            names.PROCESS_MEMORY.name: {process: [float(memory)]},
            names.PROCESS_CPU.name: {process: [cpu.user + cpu.system]},
        }


def read_build() -> Values:
    """What runs here."""
    versions = (importlib.metadata.version("loopledger"), platform.python_version())
    return {names.BUILD_INFO.name: {versions: [1.0]}}


def building(pids: Collection[int]) -> Callable[[], Values]:
    """Read what the builders of a rebuild take together."""

    def read() -> Values:
        memory = 0.0
        for pid in tuple(pids):
            with suppress(psutil.Error):
                memory += psutil.Process(pid).memory_info().rss
        return {
            names.BUILDERS.name: {(): [float(len(pids))]},
            names.BUILDERS_MEMORY.name: {(): [memory]},
        }

    return read


def restarting(restarts: Mapping[str, int]) -> Callable[[], Values]:
    """Read how often each worker was started again."""
    return lambda: {
        names.WORKER_RESTARTS.name: {(name,): [float(count)] for name, count in restarts.items()}
    }


def receiving(
    counts: DeliveryCounts, rejections: Rejections, server: ConnectionServer, limits: Limits
) -> Callable[[], Values]:
    """Read what a process counts that takes deliveries."""

    def read() -> Values:
        return {
            names.DELIVERIES.name: {
                (provider, outcome, "verified" if verified else "unverified"): [float(count)]
                for provider, outcome, verified, count in counts.outcomes()
            },
            names.DELIVERY_DURATION.name: {
                ("accepted",): counts.accepted_seconds.numbers,
                ("refused",): counts.refused_seconds.numbers,
            },
            names.LAST_ACCEPTED.name: {
                (provider,): [at.timestamp()] for provider, at in counts.last_accepted()
            },
            names.LAST_VERIFIED.name: {
                (provider,): [at.timestamp()] for provider, at in counts.last_verified()
            },
            names.REJECTIONS_DROPPED.name: {
                (sender,): [float(count)] for sender, count in rejections.dropped.items()
            },
            names.CONNECTIONS.name: {
                ("known",): [float(server.limiter.connections - server.limiter.strangers)],
                ("stranger",): [float(server.limiter.strangers)],
            },
            names.CONNECTIONS_CLOSED.name: {
                (reason,): [float(server.limiter.counts[reason])] for reason in CLOSED
            },
            names.CONNECTIONS_LIMIT.name: {(): [float(limits.connections)]},
        }

    return read


def appending(appender: Appender | RelayingAppender, limits: Limits) -> Callable[[], Values]:
    """Read what an appender counts."""

    def read() -> Values:
        deliveries, size = appender.queued
        full = max(deliveries / limits.queue_deliveries, size / limits.queue_bytes)
        return {
            names.COMMIT_DURATION.name: {(): appender.commits.seconds.numbers},
            names.BATCH_EVENTS.name: {(): appender.commits.events.numbers},
            names.QUEUE_DELIVERIES.name: {(): [float(deliveries)]},
            names.QUEUE_BYTES.name: {(): [float(size)]},
            names.QUEUE_UTILIZATION.name: {(): [full]},
            names.APPENDS_REFUSED.name: {(): [float(appender.refusal is not None)]},
            names.APPEND_OUTAGE.name: {(): [float(appender.outage is not None)]},
        }

    return read
