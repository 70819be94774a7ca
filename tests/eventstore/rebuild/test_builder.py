"""Building a generation by its parts: what is read, and what is held."""

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventstore.errors import SystematicError
from eventstore.fold.generation import GenerationTables
from eventstore.fold.registry import Registry
from eventstore.log.copy_out import EventReader
from eventstore.log.queries import QUERIES as LOG
from eventstore.postgres.database import Database
from eventstore.rebuild.builder import Builder, TooManyStreamsError
from eventstore.rebuild.messages import Range
from eventstore.rebuild.queries import QUERIES
from projections.gift_cards import PROJECTION
from tests.support import new_event, values
from tests.support.folding import LIMITS, PROVIDERS, TOPICS, append, fold_live

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.log.events import Event


async def begin(database: Database, generation: int = 2) -> int:
    """Enter a generation and make its tables; gives back its target."""
    target: int = await database.fetchval(LOG["read_head"])
    await Registry(database).request_rebuild(PROJECTION.name)
    async with database.transaction() as connection:
        await GenerationTables(PROJECTION, generation).create(connection)
    return target


def builder(target: int, generation: int = 2, **limits: Any) -> Builder[Any]:  # noqa: ANN401 - a limit
    return Builder(
        PROJECTION,
        sources=PROVIDERS,
        generation=generation,
        target=target,
        limits=msgspec.structs.replace(LIMITS, **limits),
    )


async def copied(connection: "Connection[Record]", part: Range, until: int) -> list[bytes]:
    """The bytes of a COPY as they come."""
    chunks: list[bytes] = []

    async def take(data: bytes | bytearray | memoryview) -> None:
        chunks.append(bytes(data))

    query = QUERIES["read_range"].format(
        topics=", ".join(f"'{topic}'" for topic in TOPICS),
        after=0,
        until=until,
        low=part.low,
        high=part.high,
    )
    await connection.copy_from_query(query, output=take, format="binary")
    return chunks


async def differences(connection: "Connection[Record]") -> dict[str, int]:
    """How many rows only one of the generations 1 and 2 has, by table; none of equal ones."""
    found = {}
    for name in ("gift_cards", "gift_cards_timeline", "gift_cards_postings"):
        one, other = f"TABLE {name}_1", f"TABLE {name}_2"
        rows = await connection.fetch(
            f"(({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one}))"
        )
        if rows:
            found[name] = len(rows)
    return found


async def test_events_are_read_alike_wherever_the_bytes_are_cut(
    database: Database, connection: "Connection[Record]"
) -> None:
    sent = [
        new_event("gift-card.updated", {"id": "é/🎁", "name": "x" * 40}, merchant="ü" * 30),
        new_event("location.updated"),
        new_event("gift-card.created", b'{"id": 1}'),
        msgspec.structs.replace(new_event("gift-card.deleted", {"id": "c"}), program_id=None),
        msgspec.structs.replace(new_event("gift-card.updated", {"id": "d"}), body=b""),
        new_event("gift-card.updated", {"id": "e", "gan": "\x00\ud800"}),
    ]
    events = await append(database, sent)
    whole = b"".join(await copied(connection, Range(), len(sent)))
    reader = EventReader(TOPICS)
    for cut in range(len(whole) + 1):
        reader.begin()
        found = [*reader.feed(whole[:cut]), *reader.feed(whole[cut:])]
        assert found == events
    reader.begin()
    assert [one for n in range(len(whole)) for one in reader.feed(whole[n : n + 1])] == events
    assert [one.body for one in events] == [one.body for one in sent if "gift" in one.topic]


async def test_a_copy_of_nothing_has_no_events_and_the_next_begins_anew(
    database: Database, connection: "Connection[Record]"
) -> None:
    await append(database, [new_event("location.updated")])
    empty = b"".join(await copied(connection, Range(), 1))
    reader = EventReader(TOPICS)
    for _ in range(2):
        reader.begin()
        assert list(reader.feed(empty)) == []


async def test_the_ranges_of_a_whole_find_every_event_once(
    database: Database, connection: "Connection[Record]"
) -> None:
    sent = [new_event("gift-card.updated", {"id": f"c-{n}"}) for n in range(100)]
    events = await append(database, sent)
    found: list[Event] = []
    for part in Range().split(7):
        reader = EventReader(TOPICS)
        found += reader.feed(b"".join(await copied(connection, part, len(sent))))
    assert sorted(found, key=lambda event: event.position) == events


async def test_a_range_of_too_many_streams_is_built_in_passes_and_leaves_nothing_twice(
    database: Database, connection: "Connection[Record]"
) -> None:
    cards = [
        new_event("gift-card.updated", {"id": f"c-{n % 200}", "balance": n if n % 9 else "bad"})
        for n in range(600)
    ]
    await append(database, cards)
    await fold_live(database)
    one = builder(await begin(database), rebuild_streams=10, rebuild_events=40)
    left, passes, folded, quarantined = [Range()], 0, 0, 0
    while left:
        part = left.pop()
        passes += 1
        try:
            built = await one.build_range(database.connect, part, lambda _: None)
        except TooManyStreamsError as error:
            left += part.split(error.parts)
        else:
            folded += built.folded
            quarantined += built.quarantined
    assert passes > 20
    assert (folded, quarantined) == (533, 67)
    assert await differences(connection) == {}
    counts = "SELECT generation, count(*) FROM quarantine GROUP BY 1 ORDER BY 1"
    assert values(await connection.fetch(counts)) == [(1, 67), (2, 67)]


async def test_a_range_built_again_replaces_what_was_there_and_nothing_else(
    database: Database, connection: "Connection[Record]"
) -> None:
    cards = [
        new_event("gift-card.updated", {"id": f"c-{n}", "balance": n if n % 9 else "bad"})
        for n in range(90)
    ]
    await append(database, cards)
    await fold_live(database)
    one = builder(await begin(database))
    low, high = Range().split(2)
    for part in (low, high, low, low, high):
        await one.build_range(database.connect, part, lambda _: None)
    assert await differences(connection) == {}


async def test_a_build_without_one_event_that_folds_ends_early(
    database: Database, connection: "Connection[Record]"
) -> None:
    cards = [new_event("gift-card.updated", {"id": f"c-{n}", "balance": "x"}) for n in range(60)]
    await append(database, cards)
    await fold_live(database)
    one = builder(await begin(database), failures_in_a_row=5, rebuild_events=10)
    with pytest.raises(SystematicError, match="50 in a row"):
        await one.build_range(database.connect, Range(), lambda _: None)
    assert await connection.fetchval("SELECT count(*) FROM gift_cards_2") == 0
