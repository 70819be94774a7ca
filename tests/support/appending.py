"""Appenders for tests, with faults at their border to Postgres, and what they are asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import UUID

import pytest

from eventstore.errors import UnavailableError
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.events import Appended, NewEvent
from eventstore.log.queries import QUERIES as LOG
from eventstore.log.relay_client import RelayingAppender
from tests.support import new_event
from tests.support.fault_injection import Fault, FaultInjector

if TYPE_CHECKING:
    from asyncpg import Connection, Record

Plan: TypeAlias = Sequence[tuple[str, Fault]]

DEFAULTS = Limits()


class StartAppender(Protocol):
    """Start an appender whose statements meet these faults; limits may differ from the defaults."""

    async def __call__(
        self, plan: Plan = (), *, faults: FaultInjector | None = None, limits: Limits = DEFAULTS
    ) -> Appender:
        """Start it."""


Recorded = Callable[[], Awaitable[list[UUID]]]


@asynccontextmanager
async def nobody_appends(connection: "Connection[Record]") -> AsyncIterator[None]:
    """Hold the head: batches wait at Postgres."""
    async with connection.transaction():
        await connection.fetchval(LOG["lock_head"])
        yield


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look until it holds: Postgres sends no word of it."""
    for _ in range(1000):
        if await holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never held")


def at_work() -> list[str]:
    """The appenders' tasks that have not ended."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("appender")]


async def append_at_once(
    appender: Appender | RelayingAppender, events: Sequence[NewEvent]
) -> list[Any]:
    """The answers, errors among them."""
    return await asyncio.gather(*map(appender.append, events), return_exceptions=True)


async def append_at_last(appender: Appender | RelayingAppender) -> Appended:
    """Append an event, however often it takes longer than an append may take."""
    while True:
        with suppress(UnavailableError):
            return await appender.append(new_event())
        await asyncio.sleep(0.01)


def positions(answers: Sequence[Any]) -> list[int | type]:
    return [one.position if isinstance(one, Appended) else type(one) for one in answers]


def each(times: int, statement: str, fault: Fault) -> Plan:
    return [(statement, fault)] * times
