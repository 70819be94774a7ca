"""Lists of events end where the log is not whole, and find a time by its position."""

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventstore.postgres.database import Database
from eventstore.query.events import FIRST_WINDOW, EventLists, Span
from eventstore.query.listing import ListReader, Question
from eventstore.query.visibility import Visibility
from tests.support import new_event
from tests.support.folding import LIMITS, append
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


async def positions(database: Database, sort: str = "position", **filters: Any) -> list[int]:  # noqa: ANN401
    question = Question(filters=filters, sort=sort)
    page = await EventLists(database).page(question, Visibility(), limit=100)
    return [msgspec.json.decode(item)["position"] for item in page.items]


@pytest.mark.parametrize("sort", ["position", "-position"])
async def test_no_list_goes_past_a_hole_that_is_known(
    database: Database, connection: "Connection[Record]", sort: str
) -> None:
    await append(database, [new_event("location.created", {"id": "l"}) for _ in range(6)])
    await connection.execute("UPDATE log_scan SET hole = 4")
    for filters in ({}, {"topic": "location.created"}):
        assert sorted(await positions(database, sort, **filters)) == [1, 2, 3]


async def test_a_head_that_is_ahead_of_its_events_is_not_believed(
    database: Database, connection: "Connection[Record]"
) -> None:
    await append(database, [new_event("location.created", {"id": "l"}) for _ in range(3)])
    await connection.execute("UPDATE log_head SET position = 9")
    assert await positions(database) == [1, 2, 3]


async def test_where_the_log_is_distributed_a_list_reaches_as_far_as_was_folded(
    database: Database, connection: "Connection[Record]"
) -> None:
    await append(database, [new_event("location.created", {"id": "l"}) for _ in range(5)])
    await connection.execute(
        "INSERT INTO projections (name, generation, status, version, checkpoint, folded)"
        " VALUES ('locations', 1, 'live', 1, 2, 2)"
    )
    database.distributed = True
    assert await positions(database, topic="location.created") == [1, 2]


async def test_a_time_leads_to_the_first_position_that_was_recorded_then_or_later(
    database: Database,
) -> None:
    for n in range(7):
        await append_one(database, n)
    reader = ListReader(database)
    rows = await database.fetch("SELECT position, recorded_at FROM events ORDER BY position")
    microsecond = timedelta(microseconds=1)
    for position, recorded_at in rows:
        assert await reader.first_recorded(recorded_at) == position
        assert await reader.first_recorded(recorded_at + microsecond) == position + 1
    assert await reader.first_recorded(rows[0]["recorded_at"] - timedelta(days=1)) == 1


async def append_one(database: Database, number: int) -> None:
    """Put one event on record, at a time of its own."""
    log = Log(database, LIMITS)
    await log.start(follow=False)
    await log.appender.append(new_event("location.created", {"id": f"{number}"}))
    await log.stop()


@pytest.mark.parametrize("descending", [False, True])
def test_windows_cover_a_span_once_and_grow(descending: bool) -> None:  # noqa: FBT001 - a case
    span = Span(5, 1_000_000)
    windows = list(span.windows(FIRST_WINDOW, descending=descending))
    in_order = windows[::-1] if descending else windows
    assert in_order[0].after == 5
    assert in_order[-1].through == 1_000_000
    assert all(one.through == two.after for one, two in pairwise(in_order))
    assert len(windows) < 6
