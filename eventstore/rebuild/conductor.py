"""Has every projection follow the log, looks that through for holes, and does the rebuilds that the registry asks for.

The registry says what is to be done, and how far it is; whoever asks writes there. One process at a time, the one that
projects, does it. Whatever kills it, the next one finds in the registry where to resume, or that it has to start over.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from eventstore.errors import TermOverError
from eventstore.fold.projection import Projection
from eventstore.log.scan import LogScan
from eventstore.postgres.failures import describe, is_outage
from eventstore.postgres.leader import Term
from eventstore.rebuild.build import Dependencies
from eventstore.rebuild.lifecycle import Lifecycle
from eventstore.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from eventstore.fold.status import ProjectionStatus

logger = structlog.get_logger()

# Seconds between reads of what the registry asks for: without a rebuild, and with one.
IDLE_POLL_SECONDS = 1.0
BUSY_POLL_SECONDS = 0.25


class Conductor:
    """Conducts all projections of one database."""

    def __init__(self, projections: Sequence[Projection[Any]], deps: Dependencies) -> None:
        self._registry = deps.registry
        self._scan = LogScan(deps.database, deps.limits)
        self._lifecycles = [Lifecycle(each, deps) for each in projections]

    async def run(self, term: Term) -> None:
        """Project until cancelled; rebuild while `term` lasts."""
        for lifecycle in self._lifecycles:
            lifecycle.begin(term)
        async with asyncio.TaskGroup() as group:
            for lifecycle in self._lifecycles:
                group.create_task(lifecycle.follow_log(), name=f"projector-{lifecycle.name}")
            group.create_task(self._watch_registry(), name="rebuilds")
            group.create_task(self._scan.run(), name="log-scan")

    async def _watch_registry(self) -> None:
        """Poll the registry for what is asked for, and have it done."""
        try:
            while True:
                statuses: dict[str, ProjectionStatus] = {}
                with _errors_logged("read the registry"):
                    statuses = await self._registry.statuses()
                for lifecycle in self._lifecycles:
                    # One that is not registered yet is being set up.
                    if (status := statuses.get(lifecycle.name)) is not None:
                        with _errors_logged("carry out a request"):
                            await lifecycle.update(status)
                busy = any(each.rebuild is not None for each in statuses.values())
                await asyncio.sleep(BUSY_POLL_SECONDS if busy else IDLE_POLL_SECONDS)
        finally:
            for lifecycle in self._lifecycles:
                await lifecycle.stop()


@contextmanager
def _errors_logged(step: str) -> Iterator[None]:
    """Log an error and go on: the next look comes soon, and no other projection is to wait for it."""
    try:
        yield
    except Exception as error:
        raise_if_cancelled()
        if isinstance(error, TermOverError):
            # Whoever leads now carries it out; this process is about to be told.
            logger.debug(
                "rebuilds_left",
                message="Another process leads now, and sees to rebuilds.",
                step=step,
            )
        elif is_outage(error):
            logger.debug(
                "rebuilds_waiting",
                message="Requests for rebuilds wait for Postgres.",
                step=step,
                error=describe(error),
            )
        else:
            logger.exception(
                "rebuilds_failed",
                message="Requests for rebuilds could not be read or carried out; trying again.",
                step=step,
            )
