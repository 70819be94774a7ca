"""The live fold: each event once, states and checkpoint together, a poison event in quarantine."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from eventstore.errors import FencedError, IncompleteError, StateChangedError
from eventstore.fold.registry import Registry
from eventstore.log.events import LogSlice
from eventstore.postgres.database import Database
from projections.gift_cards import PROJECTION
from projections.tracked import Tracked
from tests.support import new_event, values
from tests.support.folding import LIMITS, projector
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    found = Log(database, LIMITS)
    await found.start()
    yield found
    await found.stop()


async def append_cards(log: Log, *cards: Mapping[str, object]) -> None:
    await asyncio.gather(
        *(log.appender.append(new_event("gift-card.updated", card)) for card in cards)
    )


async def counts(connection: "Connection[Record]") -> tuple[int, ...]:
    row = await connection.fetchrow(
        "SELECT checkpoint, folded, ignored, quarantined FROM projections WHERE name = 'gift_cards'"
    )
    assert row is not None
    return tuple(row.values())


async def test_states_and_checkpoint_move_together(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    await append_cards(log, {"id": "a", "balance": 1}, {"id": "b", "balance": 2})
    await log.appender.append(new_event("location.updated"))
    await one.fold_next()
    assert await counts(connection) == (3, 2, 1, 0)
    assert values(await connection.fetch("SELECT id, balance FROM gift_cards ORDER BY id")) == [
        ("a", 1),
        ("b", 2),
    ]


async def test_a_state_names_the_event_that_changed_it_last(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    for balance in (1, 2, 2):
        await append_cards(log, {"id": "a", "balance": balance})
    await one.fold_next()
    assert await connection.fetchval("SELECT position FROM gift_cards") == 2


async def test_of_two_projectors_only_one_advances(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one, other = await projector(database, log), await projector(database, log)
    await append_cards(log, {"id": "a", "balance": 1})
    await one.fold_next()
    with pytest.raises(FencedError, match="checkpoint 0"):
        await other.fold_next()
    assert await counts(connection) == (1, 1, 0, 0)


CHANGE = "UPDATE gift_cards_1 SET position = position + 100, balance = 7 WHERE id = 'a'"


async def test_a_state_that_others_changed_is_not_overwritten(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    await append_cards(log, {"id": "a", "balance": 1}, {"id": "b", "balance": 2})
    await one.fold_next()
    await connection.execute(CHANGE)
    await append_cards(log, {"id": "a", "balance": 3}, {"id": "b", "balance": 4})
    with pytest.raises(StateChangedError, match="generation 1"):
        await one.fold_next()
    assert await counts(connection) == (2, 2, 0, 0)
    assert values(await connection.fetch("SELECT id, balance FROM gift_cards ORDER BY id")) == [
        ("a", 7),
        ("b", 2),
    ]


async def test_a_projection_stops_where_others_change_its_states(
    database: Database,
    log: Log,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await append_cards(log, {"id": "a", "balance": 1})
    await (await projector(database, log)).fold_next()
    one = await projector(database, log)
    load = one._writer.load_states

    async def load_first(*given: Any) -> Any:  # noqa: ANN401 - as it is
        states = await load(*given)
        await connection.execute(CHANGE)
        return states

    monkeypatch.setattr(one._writer, "load_states", load_first)
    await append_cards(log, {"id": "a", "balance": 3})
    async with asyncio.timeout(10):
        # It returns: it has stopped for good.
        await one.run()
    assert "a state is not the one that was folded" in (one.error or "")
    assert (await Registry(database).statuses())["gift_cards"].live.error == one.error
    assert await connection.fetchval("SELECT balance FROM gift_cards") == 7


async def test_a_state_that_appears_where_there_was_none_is_not_overwritten(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    await append_cards(log, {"id": "a", "balance": 1})
    await one.fold_next()
    await connection.execute("CREATE TABLE kept AS SELECT * FROM gift_cards_1")
    await connection.execute("DELETE FROM gift_cards_1")
    await one.reload()
    await append_cards(log, {"id": "b", "balance": 1})
    await one.fold_next()
    await append_cards(log, {"id": "a", "balance": 2})
    prepared = await one._prepare(one.checkpoint, None, {})
    assert prepared is not None
    await connection.execute("INSERT INTO gift_cards_1 SELECT * FROM kept")
    with pytest.raises(StateChangedError, match="generation 1"):
        await one._write(prepared)
    assert await connection.fetchval("SELECT balance FROM gift_cards WHERE id = 'a'") == 1


async def test_rival_projectors_that_run_fold_every_event_once(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    tasks = [asyncio.create_task((await projector(database, log)).run()) for _ in range(3)]
    for n in range(40):
        await append_cards(log, *({"id": f"c-{n}-{m}", "balance": n} for m in range(5)))
    await Registry(database).wait_for("gift_cards", 200, 10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await counts(connection) == (200, 200, 0, 0)
    assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 200


async def test_an_event_that_cannot_be_decoded_goes_to_quarantine_and_the_rest_goes_on(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    await append_cards(log, {"id": "a", "balance": 1}, {"id": "a", "balance": "x"}, {"id": "b"})
    await one.fold_next()
    assert await counts(connection) == (3, 2, 0, 1)
    row = await connection.fetchrow("SELECT position, stream, error FROM quarantine")
    assert row is not None
    assert tuple(row.values()) == (
        2,
        "loopz/m-1/gift-card/a",
        "balance is not a whole number of cents.",
    )


async def test_an_event_that_the_database_refuses_goes_to_quarantine_alone(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    cards: list[dict[str, object]] = [{"id": f"c-{n}", "status": "ACTIVE"} for n in range(9)]
    cards[4]["status"] = "\x00"
    cards[6]["balance"] = 2**63
    await append_cards(log, *cards)
    await one.fold_next()
    assert await counts(connection) == (9, 7, 0, 2)
    positions = values(await connection.fetch("SELECT position FROM quarantine ORDER BY 1"))
    assert positions == [(5,), (7,)]


async def test_a_projector_that_is_cancelled_stops_even_if_the_database_refuses_a_state_just_then(
    database: Database,
    log: Log,
    connection: "Connection[Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await projector(database, log)
    await append_cards(log, *({"id": f"c-{n}"} for n in range(3 * LIMITS.fold_events)))
    writing, refused = asyncio.Event(), asyncio.Event()
    read_slice = log.reader.read_slice

    async def refuse(*_: object) -> bool:
        writing.set()
        await refused.wait()
        raise asyncpg.DataError

    async def read_the_first(after: int, limit: int, topics: Collection[str] | None) -> LogSlice:
        if after:
            await asyncio.Event().wait()
        return await read_slice(after, limit, topics)

    monkeypatch.setattr(one._writer, "write_batch", refuse)
    monkeypatch.setattr(log.reader, "read_slice", read_the_first)
    folding = asyncio.create_task(one.fold_next())
    await writing.wait()
    refused.set()
    # The fold that was refused has ended now, and who waits for it has not heard of it.
    await asyncio.sleep(0)
    folding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await folding
    assert await counts(connection) == (0, 0, 0, 0)


async def test_a_quarantined_event_is_described_without_its_values(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    await append_cards(log, {"id": "a", "code": "SECRET-1234\x00"})
    await one.fold_next()
    error = await connection.fetchval("SELECT error FROM quarantine")
    assert error
    assert "SECRET" not in error


class Bad(Tracked, frozen=True):
    """A state whose fold has a bug."""


def fail(_: Bad | None, __: object, ___: object) -> Bad:
    message = "a bug"
    raise KeyError(message)


async def test_a_bug_in_a_fold_puts_the_event_in_quarantine_with_its_place(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    projection = msgspec.structs.replace(
        PROJECTION,
        state=Bad,
        evolve=fail,
        indexes=(),
        ranges=(),
        secrets=(),
        effective_at=(),
        timeline=None,
        total=None,
        money=None,
    )
    one = await projector(database, log, projection)
    await append_cards(log, {"id": "a"})
    await one.fold_next()
    error = await connection.fetchval("SELECT error FROM quarantine")
    assert error.startswith("KeyError: at test_projector.py:")


async def test_a_registry_that_does_not_add_up_stops_the_projection(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    await connection.execute(
        "ALTER TABLE projections DROP CONSTRAINT complete,"
        " ADD CONSTRAINT complete CHECK (folded + ignored + quarantined = 0 * checkpoint)"
    )
    await append_cards(log, {"id": "a"})
    with pytest.raises(IncompleteError, match="gift_cards is incomplete"):
        await one.fold_next()
    await asyncio.wait_for(one.run(), 5)
    status = (await Registry(database).statuses())["gift_cards"].live
    assert status.error is not None
    assert status.error.startswith("gift_cards is incomplete")


async def test_a_projector_survives_the_loss_of_its_connections(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    one = await projector(database, log)
    task = asyncio.create_task(one.run())
    for n in range(10):
        await append_cards(log, {"id": f"c-{n}"})
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await Registry(database).wait_for("gift_cards", 10, 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await counts(connection) == (10, 10, 0, 0)
    assert await connection.fetchval("SELECT count(*) FROM gift_cards") == 10


async def test_an_idle_projector_asks_nothing_of_the_database(
    database: Database, log: Log, connection: "Connection[Record]"
) -> None:
    task = asyncio.create_task((await projector(database, log)).run())
    await asyncio.sleep(0.3)
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    seconds: list[int] = []
    # What the start asked is counted late, whenever its sessions go idle: only a quiet second counts.
    while not seconds or (min(seconds) >= 30 and len(seconds) < 5):
        before = await connection.fetchval(query)
        await asyncio.sleep(1)
        seconds.append(await connection.fetchval(query) - before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # The log's own poll, at 20 a second here, and this test's two questions.
    assert min(seconds) < 30
