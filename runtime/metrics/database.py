"""The metrics that are read from the database: one read serves all who ask, and nobody waits for it for long."""

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from eventstore.fold.status import REBUILDING, GenerationStatus, ProjectionStatus
from eventstore.metrics import Samples, Values
from eventstore.postgres.failures import is_outage
from runtime.metrics import definitions as names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventstore.fold.registry import Registry
    from eventstore.query.log_status import LogStatus, LogStatusReader
    from eventstore.query.readiness import Readiness

logger = structlog.get_logger()

# For so many seconds what was read is told again.
FRESH_SECONDS = 1.0

# So long a read is waited for, in seconds; then it goes on, and until it ends there are no values.
WAIT_SECONDS = 2.0


class DatabaseValues:
    """The values of one database, as `log`, `readiness` and `registry` find them.

    `known_head` gives a position that the log has reached.
    """

    def __init__(
        self,
        log: "LogStatusReader",
        readiness: "Readiness",
        registry: "Registry",
        known_head: "Callable[[], int]",
    ) -> None:
        self._log = log
        self._readiness = readiness
        self._known_head = known_head
        self._registry = registry
        self._reading: asyncio.Task[Values | None] | None = None
        self._began = 0.0

    async def read(self) -> Values:
        """What is known of the database now; if it does not answer, only that."""
        now = time.monotonic()
        if self._reading is None or (self._reading.done() and now - self._began > FRESH_SECONDS):
            self._began = now
            self._reading = asyncio.create_task(self._read(), name="metrics-database")
        left = self._began + WAIT_SECONDS - now
        if left > 0:
            await asyncio.wait([self._reading], timeout=left)
        found = self._reading.result() if self._reading.done() else None
        return (found or {}) | {names.DATABASE_UP.name: {(): [float(found is not None)]}}

    async def _read(self) -> Values | None:
        try:
            log = await self._log.read()
            problems = await self._readiness.find_problems(self._known_head())
            held_up = await self._readiness.find_held_up()
            statuses = await self._registry.statuses()
        except Exception as error:
            if not is_outage(error):
                logger.exception(
                    "metrics_not_read", message="The metrics of the database could not be read."
                )
            return None
        intact = "log" not in problems and "log" not in held_up
        health: Values = {
            names.DATABASE_READY.name: {(): [float(not problems)]},
            names.LOG_INTACT.name: {(): [float(intact)]},
        }
        return (
            health
            | _log_values(log)
            | _projection_values(statuses, log)
            | _rebuild_values(statuses)
        )

    def close(self) -> None:
        """Stop reading; a database that hangs is not waited for."""
        if self._reading is not None:
            self._reading.cancel()


def _log_values(log: "LogStatus") -> Values:
    values: Values = {
        names.DATABASE_INFO.name: {(log.server_version,): [1.0]},
        names.DATABASE_BYTES.name: {(): [float(log.database_bytes)]},
        names.HEAD.name: {(): [float(log.head)]},
        names.LAST_ACCEPTED.name: {
            (provider,): [at.timestamp()] for provider, at in log.last_received.items()
        },
    }
    if log.recorded_at is not None:
        values[names.LAST_RECORDED.name] = {(): [log.recorded_at.timestamp()]}
    return values


def _projection_values(statuses: "Mapping[str, ProjectionStatus]", log: "LogStatus") -> Values:
    live = {
        name: next((one for one in status.generations if one.status == "live"), None)
        for name, status in statuses.items()
    }
    found = {name: one for name, one in live.items() if one is not None}

    def each(value: "Callable[[GenerationStatus], float]") -> Samples:
        return {(name,): [float(value(one))] for name, one in found.items()}

    return {
        names.CHECKPOINT.name: each(lambda one: one.checkpoint),
        names.LAG_EVENTS.name: each(lambda one: one.lag),
        names.LAG_SECONDS.name: each(lambda one: log.waiting_seconds.get(one.name, 0.0)),
        names.COMPLETE.name: each(
            lambda one: one.folded + one.ignored + one.quarantined == one.checkpoint
        ),
        names.STUCK.name: each(lambda one: one.stuck),
        names.HELD_UP.name: each(lambda one: one.error is not None),
        names.STALE.name: each(lambda one: one.stale),
        names.GENERATION.name: each(lambda one: one.generation),
        names.PROJECTION_EVENTS.name: {
            (name, result): [float(getattr(one, result))]
            for name, one in found.items()
            for result in ("folded", "ignored", "quarantined")
        },
    }


def _rebuild_values(statuses: "Mapping[str, ProjectionStatus]") -> Values:
    rebuilds = {
        (name,): status.rebuild for name, status in statuses.items() if status.rebuild is not None
    }
    return {
        names.REBUILD_STATUS.name: {
            (name, possible): [
                float(status.rebuild is not None and status.rebuild.status == possible)
            ]
            for name, status in statuses.items()
            for possible in sorted(REBUILDING)
        },
        names.REBUILD_PROGRESS.name: {
            labels: [rebuild.percent / 100] for labels, rebuild in rebuilds.items()
        },
        names.REBUILD_TARGET.name: {
            labels: [float(rebuild.target)]
            for labels, rebuild in rebuilds.items()
            if rebuild.target is not None
        },
        names.REBUILD_LAG.name: {
            labels: [float(rebuild.lag)] for labels, rebuild in rebuilds.items()
        },
    }
