"""A log of the test's own, and appenders."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, cast
from uuid import UUID

import pytest

from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.postgres.database import Database
from tests.support.appending import DEFAULTS, Plan, StartAppender
from tests.support.fault_injection import FaultInjector, FaultyConnection, planned_faults
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    """A log that is started, and hears of others at the latest after 50 ms."""
    found = Log(database, Limits(poll_seconds=0.05))
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def start_appender(database: Database) -> AsyncIterator[StartAppender]:
    started: list[Appender] = []

    async def start_one(
        plan: Plan = (), *, faults: FaultInjector | None = None, limits: Limits = DEFAULTS
    ) -> Appender:
        injector = faults or planned_faults(plan)

        async def connect() -> "Connection[Record]":
            real = await injector.run("connect", database.connect, lambda: None)
            return cast("Connection[Record]", FaultyConnection(real, injector))

        appender = Appender(connect, limits, lambda _: None)
        await appender.start()
        started.append(appender)
        return appender

    yield start_one
    for appender in started:
        await asyncio.wait_for(appender.stop(), 10)


@pytest.fixture
def recorded(connection: "Connection[Record]") -> Callable[[], Awaitable[list[UUID]]]:
    """The ids on record, in order; their positions have no hole."""

    async def read() -> list[UUID]:
        rows = await connection.fetch("SELECT position, event_id FROM events ORDER BY position")
        assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["event_id"] for row in rows]

    return read
