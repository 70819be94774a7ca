"""Acknowledged means on record, once, whatever becomes of the connection meanwhile."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import pytest

from eventstore.errors import RefusedError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.events import NewEvent
from tests.support import new_event
from tests.support.appending import (
    Plan,
    Recorded,
    StartAppender,
    append_at_last,
    append_at_once,
    each,
    positions,
    until,
)
from tests.support.fault_injection import AWAY, LOST, Fault, FaultInjector

if TYPE_CHECKING:
    from asyncpg import Connection, Record

NUL = msgspec.structs.replace(new_event(), topic="a\0b")

UNKNOWN: dict[str, Plan] = {
    "never sent": [("append", "lost before")],
    "committed": [("append", "lost after")],
    "then away": [("append", "lost after"), ("connect", "lost before"), ("connect", "lost before")],
    "lost looking": [("append", "lost after"), ("begin", "lost before")],
    "lost under the lock": [("append", "lost after"), ("lock_head", "lost after")],
    "lost finding": [("append", "lost before"), ("find_appended", "lost after")],
    "lost before the look's commit": [("append", "lost after"), ("commit", "lost before")],
    "lost at the look's commit": [("append", "lost after"), ("commit", "lost after")],
    "nothing found, lost at commit": [("append", "lost before"), ("commit", "lost after")],
    "committed at the second try": [("append", "lost before"), ("append", "lost after")],
    "committed at the third try": [*each(2, "append", "lost before"), ("append", "lost after")],
}


@pytest.mark.parametrize("plan", UNKNOWN.values(), ids=UNKNOWN)
async def test_a_batch_whose_outcome_is_unknown_is_on_record_once_where_it_was_told(
    start_appender: StartAppender, recorded: Recorded, plan: Plan
) -> None:
    appender = await start_appender(plan)
    events = [new_event() for _ in range(3)]
    answers = await append_at_once(appender, events)
    assert positions(answers) == [1, 2, 3]
    assert await recorded() == [event.event_id for event in events]


async def test_a_batch_found_on_record_is_answered_with_the_time_it_has(
    start_appender: StartAppender, connection: "Connection[Record]"
) -> None:
    appender = await start_appender([("append", "lost after")])
    appended = await appender.append(new_event())
    assert await connection.fetchval("SELECT recorded_at FROM events") == appended.recorded_at


@pytest.mark.parametrize("error", [*LOST, *AWAY], ids=lambda make: type(make()).__name__)
async def test_whatever_a_dying_server_looks_like_the_appender_tries_again(
    start_appender: StartAppender, recorded: Recorded, error: Callable[[], Exception]
) -> None:
    class Dying(FaultInjector):
        def _error(self, _: str) -> Exception:
            return error()

    plan: list[Fault] = ["lost after", "lost before"]
    faults = Dying(lambda name: plan.pop() if name == "append" and plan else "none")
    appender = await start_appender(faults=faults)
    appended = await appender.append(new_event())
    assert (appended.position, len(await recorded())) == (1, 1)


async def test_what_others_appended_meanwhile_stays_apart_from_what_is_looked_for(
    start_appender: StartAppender, recorded: Recorded
) -> None:
    other = await start_appender()
    appender = await start_appender([("append", "lost after"), ("connect", "slow")])
    mine, theirs = [new_event() for _ in range(5)], [new_event() for _ in range(5)]
    answers = await asyncio.gather(append_at_once(appender, mine), append_at_once(other, theirs))
    ids = [event.event_id for event in mine + theirs]
    places = dict(zip(positions(answers[0] + answers[1]), ids, strict=True))
    assert [places[n] for n in range(1, 11)] == await recorded()


async def test_a_statement_still_under_way_in_a_lost_session_does_not_append_later(
    start_appender: StartAppender, recorded: Recorded, connection: "Connection[Record]"
) -> None:
    """The process of a lost session may be paused, or its packets held up, until after we have looked."""
    appender = await start_appender([("append", "none"), ("append", "under way")])
    # From now on an append is one message: the statement is prepared.
    await appender.append(new_event())
    session = "SELECT pid FROM pg_stat_activity WHERE application_name = $1"
    lost = await connection.fetchval(session, appender._writer.name)
    os.kill(lost, signal.SIGSTOP)
    append = asyncio.create_task(appender.append(new_event()))
    await asyncio.wait([append], timeout=0.5)
    os.kill(lost, signal.SIGCONT)
    assert (await append).position == 2
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1"
    await until(lambda: connection.fetchval(gone, lost))
    assert len(await recorded()) == 2


POISON = {
    "a topic with NUL": msgspec.structs.replace(new_event(), topic="a\0b"),
    "a tenant with a lone surrogate": msgspec.structs.replace(new_event(), merchant_id="\ud800"),
    "a tenant with a separator": msgspec.structs.replace(new_event(), merchant_id="a\x1eb"),
    "a program with a separator": msgspec.structs.replace(new_event(), program_id="a\x1eb"),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
@pytest.mark.parametrize("places", [{0}, {4}, {2, 3}, {0, 1, 2, 3, 4}], ids=str)
async def test_a_delivery_that_the_database_refuses_spoils_only_itself(
    start_appender: StartAppender, recorded: Recorded, poison: NewEvent, places: set[int]
) -> None:
    appender = await start_appender()
    events = [
        msgspec.structs.replace(poison, event_id=UUID(int=n)) if n in places else new_event()
        for n in range(5)
    ]
    answers = await append_at_once(appender, events)
    assert {n for n, one in enumerate(answers) if isinstance(one, RefusedError)} == places
    good = [event.event_id for n, event in enumerate(events) if n not in places]
    assert [one for one in positions(answers) if one is not RefusedError] == [
        *range(1, len(good) + 1)
    ]
    assert await recorded() == good


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
async def test_a_refused_delivery_in_a_batch_of_unknown_outcome_spoils_only_itself(
    start_appender: StartAppender, recorded: Recorded, fault: Fault
) -> None:
    appender = await start_appender(each(4, "append", fault))
    events = [new_event(), new_event(), NUL, new_event(), new_event()]
    answers = await append_at_once(appender, events)
    assert positions(answers) == [1, 2, RefusedError, 3, 4]
    assert await recorded() == [event.event_id for event in events if event is not NUL]


async def test_what_no_caller_waits_for_is_not_appended_once_it_is_found_missing(
    start_appender: StartAppender, recorded: Recorded
) -> None:
    plan: Plan = [("append", "lost before"), *each(4, "connect", "lost before")]
    appender = await start_appender(plan, limits=Limits(append_seconds=0.1))
    with pytest.raises(UnavailableError):
        await appender.append(abandoned := new_event())
    await append_at_last(appender)
    assert abandoned.event_id not in await recorded()
