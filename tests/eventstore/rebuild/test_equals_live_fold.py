"""Of any history, what a rebuild folds is what the live fold folded, row by row."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.fold.folding import handled_topics
from eventstore.fold.generation import GenerationTables
from eventstore.fold.refiling import find_stream, read_thing
from eventstore.limits import Limits
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.database import Database
from eventstore.rebuild.builder import Builder
from tests.conftest import Cluster, StartLoopledger
from tests.support import NOON, reference_model
from tests.support.generated_deliveries import (
    PROVIDERS,
    logs,
    misfiled_logs,
    of_tenant,
    to_event,
    wild_deliveries,
)
from tests.support.live_fold import PROJECTIONS, Live, at_work
from tests.support.rebuilding import (
    CARDS,
    build_all,
    build_second_pass,
    differences,
    level,
    ready,
    running,
)
from tests.support.reference_model import Sent

if TYPE_CHECKING:
    from asyncpg import Connection, Record


class Rebuilt(Live):
    """A log, its live generations, and generations built beside them."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__(runner, database)
        self._generation = 1

    async def rebuild(self) -> int:
        """Build every projection anew, from the first event; gives back the generation."""
        self._generation += 1
        target = await self.database.fetchval(LOG["read_head"])
        for name, projection in PROJECTIONS.items():
            async with self.database.transaction() as connection:
                await GenerationTables(projection, self._generation).create(connection)
                await connection.execute(
                    "INSERT INTO projections (name, generation, status, version, target)"
                    " VALUES ($1, $2, 'retired', 1, $3)",
                    *(name, self._generation, target),
                )
            builder = Builder(
                projection,
                sources=PROVIDERS,
                generation=self._generation,
                target=target,
                limits=Limits(rebuild_events=7, rebuild_streams=20),
            )
            built, _ = await build_all(builder, self.database)
            async with self.database.transaction() as connection:
                await GenerationTables(projection, self._generation).create_indexes(connection)
            built += await build_second_pass(builder, self.database)
            assert built.left_out == 0
            ignored = target - built.folded - built.quarantined
            await self.database.execute(
                "UPDATE projections SET checkpoint = target, folded = $3, ignored = $4,"
                " quarantined = $5 WHERE name = $1 AND generation = $2",
                *(name, self._generation, built.folded, ignored, built.quarantined),
            )
        return self._generation

    async def check(self, generation: int) -> None:
        """The generation is the live one, row by row."""
        async with self.database.transaction() as connection:
            for name in PROJECTIONS:
                assert await differences(connection, name, 1, generation) == {}  # type: ignore[arg-type]

    async def forget(self, generation: int) -> None:
        """Drop it."""
        for name, projection in PROJECTIONS.items():
            async with self.database.transaction() as connection:
                await GenerationTables(projection, generation).drop(connection)
                await connection.execute(
                    "DELETE FROM projections WHERE name = $1 AND generation = $2", name, generation
                )


@pytest.fixture(scope="module")
def rebuilds(cluster: Cluster) -> Iterator[Rebuilt]:
    with at_work(Rebuilt, cluster) as found:
        yield found


@settings(max_examples=8)
@given(histories=st.lists(logs() | misfiled_logs(), min_size=3, max_size=3))
def test_of_any_history_a_rebuild_is_the_live_fold_is_what_the_words_promise(
    rebuilds: Rebuilt, histories: list[list[Sent]]
) -> None:
    number = next(rebuilds.numbers)
    sent = [of_tenant(one, number) for history in histories for one in history]

    async def check() -> None:
        log = await rebuilds.append([to_event(one) for one in sent], 5)
        generation = await rebuilds.rebuild()
        await rebuilds.check(generation)
        first = log[0].position
        recorded = [event.recorded_at for event in log]
        for name, projection in PROJECTIONS.items():
            promised = reference_model.expect(name, sent, recorded)
            topics = handled_topics(projection, PROVIDERS)
            for stream in promised.states:
                things = [
                    read_thing(rebuilds.database, name, number, stream, Limits())
                    for number in (None, generation)
                ]
                mine = [
                    event
                    for event in log
                    if find_stream(PROVIDERS, event) == stream
                    and f"{event.provider} {event.topic}" in topics
                ]
                for thing in things:
                    assert mine == [
                        event
                        async for event in thing
                        if find_stream(PROVIDERS, event) == stream
                        and f"{event.provider} {event.topic}" in topics
                    ]
            assert await rebuilds.states(f"{name}_{generation}", log) == promised.states
            assert await rebuilds.quarantined(name, log) == {
                first + index for index in promised.quarantined
            }
        await rebuilds.forget(generation)

    rebuilds.run(check())


# What a provider may write, and Postgres may not hold: not at all, not in an index, not in a bigint.
HARD = [
    *("\0", "\ud800", "a\0b\ud800", "s" * 1_900, "s" * 1_901, "é" * 951, "s" * 3_000, "é" * 5_000),
    *(2**63 - 1, 2**63, 2**70, -(2**63), "1e400", "9223372036854775808", 1e300),
]


@st.composite
def hard_deliveries(draw: st.DrawFn) -> Sent:
    """A delivery with something that is hard to hold."""
    topics = ["gift-card.updated", "transaction.updated", "location.updated", "gift-card.odd"]
    fields = ["status", "code", "type", "name", "balance", "gift_card_id", "external_id"]
    body: Any = {"id": draw(st.sampled_from(["x-1", "x-2", "x" * 1_950, "\ud800", "\0"]))}
    for name in draw(st.lists(st.sampled_from(fields), max_size=2)):
        # The difference of two balances has a test of its own.
        hard = [one for one in HARD if name != "balance" or one != 2**63 - 1]
        body[name] = draw(st.sampled_from(hard))
    topic = draw(st.sampled_from(topics))
    return Sent(
        "loopz",
        topic,
        "0",
        None,
        body,
        NOON,
    )


@settings(max_examples=8)
@given(deliveries=st.lists(wild_deliveries() | hard_deliveries(), min_size=8, max_size=30))
def test_what_postgres_cannot_hold_is_in_quarantine_after_a_rebuild_as_it_is_live(
    rebuilds: Rebuilt, deliveries: list[Sent]
) -> None:
    number = next(rebuilds.numbers)
    events = [to_event(of_tenant(one, number)) for one in deliveries]

    async def check() -> None:
        await rebuilds.append(events, 7)
        generation = await rebuilds.rebuild()
        await rebuilds.check(generation)
        await rebuilds.forget(generation)

    rebuilds.run(check())


@pytest.mark.usefixtures("quick")
async def test_a_balance_that_changes_by_more_than_64_bits_does_not_make_rebuilds_impossible(
    start: StartLoopledger, connection: "Connection[Record]"
) -> None:
    async with running(start) as client:
        for balance in (2**63 - 1, 1 - 2**63, 5):
            await client.loopz("gift-card.updated", {"id": "c-1", "balance": balance})
        await level(client, CARDS)
        await ready(client, CARDS)
        assert await differences(connection, "gift_cards", 1, 2) == {}
