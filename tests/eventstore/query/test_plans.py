"""Every filter and every sort that a list offers is served by an index, as Postgres plans the statements themselves."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio

from eventstore.fold.projection import Projection
from eventstore.postgres.database import Database
from eventstore.query.events import EVENTS, Span, events_statement
from eventstore.query.filters import secrets_listing, states_listing
from eventstore.query.listing import Listing, Question, Statement
from eventstore.query.records import GENERATIONS, QUARANTINE, REJECTIONS
from eventstore.query.visibility import Visibility
from projections import load_projections
from tests.conftest import Cluster
from tests.support.folding import fold_live

if TYPE_CHECKING:
    from asyncpg import Connection, Record

ROWS = 20_000
EVENTS_FILLED = 100_000  # as in fill_log

ALL = Visibility()

# What is asked for, where that is not a text like those of most columns.
VALUES: Mapping[str, Any] = {
    "min_balance": ROWS - 50,
    "max_balance": 50,
    "min_amount": Decimal(ROWS - 50),
    "max_amount": Decimal(50),
    "effective_since": datetime(2026, 1, 14, 21, tzinfo=UTC),
    "effective_before": datetime(2026, 1, 1, 1, tzinfo=UTC),
    "recorded_since": ROWS - 50,
    "recorded_before": 50,
    "phase": "failed",
    "search": "rare",
}

# Of states: one in a thousand has the words that are asked for, and all numbers are different.
FILL = {
    "bigint": "n",
    "numeric": "n",
    "boolean": "n % 2 = 0",
    "timestamp with time zone": "'2026-01-01'::timestamptz + n * interval '1 minute'",
    "text": "CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'usual' || n % 7 END",
}
TEXTS = {
    "phase": "CASE WHEN n % 1000 = 7 THEN 'failed' ELSE 'settled' END",
    **dict.fromkeys(("id", "reference", "gift_card_id", "code", "gan"), "'x' || n"),
    **dict.fromkeys(
        ("name", "external_id"), "CASE WHEN n % 1000 = 7 THEN 'rare ' ELSE 'x' END || n"
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(cluster: Cluster) -> AsyncIterator["Connection[Record]"]:
    """A database with enough in every list, and with statistics."""
    async with cluster.database() as dsn:
        database = Database(dsn, pool_connections=2)
        await database.open()
        for projection in load_projections().values():
            await fold_live(database, projection)
        await database.close()
        connection = await asyncpg.connect(dsn)
        for projection in load_projections().values():
            await fill_states(connection, projection)
        await fill_log(connection)
        await connection.execute("VACUUM ANALYZE")
        yield connection
        await connection.close()


async def fill_states(connection: "Connection[Record]", projection: Projection[Any]) -> None:
    columns = {
        "stream": "'loopz/m/thing/' || n",
        "position": "n",
        "provider": "CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'loopz' END",
        "deleted_at": "CASE WHEN n % 1000 = 7 THEN now() END",
        "effective_at": "NULL",
        "merge": "NULL",
    }
    table = f"{projection.name}_1"
    for name, sql_type in await connection.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    ):
        columns.setdefault(name, TEXTS.get(name) or FILL[sql_type])
    await connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns.values())}"  # noqa: S608 - ours
        f" FROM generate_series(1, {ROWS}) AS n"
    )


async def fill_log(connection: "Connection[Record]") -> None:
    # What is rare came together, as what one merchant sends in an hour does.
    await connection.execute(
        "INSERT INTO events (position, received_at, recorded_at, event_id, provider, topic, merchant_id, program_id,"
        " stream, headers, body) SELECT n, now(), '2026-01-01'::timestamptz + n * interval '1 second',"
        " gen_random_uuid(), w, w, w, w, 'loopz/m/thing/' || n % 1000, '', repeat('x', 300)::bytea"
        " FROM (SELECT n, CASE WHEN n BETWEEN 5000 AND 5050 THEN 'rare' ELSE 'usual' END AS w"
        " FROM generate_series(1, 100000) AS n) AS new;"
        "UPDATE log_head SET position = 100000;"
        "INSERT INTO quarantine (projection, generation, position, stream, error)"
        " SELECT 'gift_cards', 1, n, 'loopz/m' || n % 997 || '/gift-card/' || n, 'e'"
        " FROM generate_series(1, 20000) AS n"
    )


def questions_of(listing: Listing) -> Iterator[tuple[str, Question]]:
    """Each sort; and each filter with each sort."""
    for sort in listing.sort_words:
        yield sort, Question(sort=sort)
        for name, one in listing.filters.items():
            words = (
                one.condition if isinstance(one.condition, Mapping) else [VALUES.get(name, "rare")]
            )
            for value in words:
                yield f"{sort} {name}={value}", Question(sort=sort, filters={name: value})


async def plan_of(connection: "Connection[Record]", statement: Statement) -> list[dict[str, Any]]:
    """The nodes of the plan of a statement."""
    found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *statement.values)
    nodes, left = [], [json.loads(found)[0]["Plan"]]
    while left:
        node = left.pop()
        nodes.append(node)
        left += node.get("Plans", [])
    return nodes


def sequential(plan: Sequence[Mapping[str, Any]], *, small: Sequence[str] = ()) -> list[str]:
    """The tables that are read from end to end, but for those that are small anyway."""
    return [
        node["Relation Name"]
        for node in plan
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] not in small
    ]


def sorted_whole(plan: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all that is found is sorted, and not only what is equal in the order of an index."""
    return any(node["Node Type"] == "Sort" for node in plan)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", load_projections())
async def test_states_are_listed_by_indexes(filled: "Connection[Record]", name: str) -> None:
    listing = states_listing(load_projections()[name])
    by_scan, by_sort = [], []
    for what, question in questions_of(listing):
        for who in (ALL, Visibility(("rare",)), Visibility(("rare", "usual1"))):
            plan = await plan_of(filled, listing.statement(question, who, limit=51))
            # Of projections there are few rows; one of them says which generation is live.
            if sequential(plan, small=["projections"]):
                by_scan.append((what, who.merchants))
            if not question.filters and who is ALL and sorted_whole(plan):
                by_sort.append(what)
    assert (by_scan, by_sort) == ([], [])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_card_is_found_by_an_index_of_its_secret(filled: "Connection[Record]") -> None:
    listing = secrets_listing(load_projections()["gift_cards"])
    for name in listing.filters:
        statement = listing.statement(Question(filters={name: "x5"}), ALL, limit=20)
        plan = await plan_of(filled, statement)
        assert f"gift_cards_1_{name}_hash" in [node.get("Index Name") for node in plan]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sort", EVENTS.sort_words)
@pytest.mark.parametrize("name", ["provider", "merchant_id", "program_id", "topic", "stream"])
async def test_the_whole_log_is_looked_through_by_an_index(
    filled: "Connection[Record]", name: str, sort: str
) -> None:
    value = "loopz/m/thing/5" if name == "stream" else "rare"
    question = Question(filters={name: value}, sort=sort)
    statement = events_statement(question, ALL, Span(0, EVENTS_FILLED), 51)
    plan = await plan_of(filled, statement)
    indexes = {node["Index Name"] for node in plan if "Index Name" in node}
    wanted = "events_1_hashtext" if name == "stream" else "events_1_provider_merchant_id"
    assert sequential(plan) == []
    assert [each for each in indexes if each.startswith(wanted)], indexes


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sort", EVENTS.sort_words)
async def test_a_window_of_the_log_is_read_by_its_positions(
    filled: "Connection[Record]", sort: str
) -> None:
    for filters in ({}, {"topic": "usual"}):
        question = Question(filters=filters, sort=sort)
        statement = events_statement(question, ALL, Span(40_000, 42_000), 51)
        plan = await plan_of(filled, statement)
        assert {node["Index Name"] for node in plan if "Index Name" in node} == {"events_1_pkey"}
        assert not sorted_whole(plan)


@pytest.mark.asyncio(loop_scope="module")
async def test_quarantine_is_listed_by_indexes(filled: "Connection[Record]") -> None:
    for what, question in questions_of(QUARANTINE):
        statement = QUARANTINE.statement(question, ALL, given=["gift_cards"], limit=51)
        plan = await plan_of(filled, statement)
        # There are two projections, and nothing is in the partition that was made ahead.
        assert sequential(plan, small=["projections", "events_5000001"]) == [], what


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_bounded_in_number_is_listed_without_more_indexes(
    filled: "Connection[Record]",
) -> None:
    """Rejections and generations are so few that no filter needs an index; their statements have to run."""
    for listing, given in ((REJECTIONS, ()), (GENERATIONS, ("{}",))):
        for _, question in questions_of(listing):
            if "verified" in question.filters:
                question = Question(filters={"verified": True}, sort=question.sort)  # noqa: PLW2901
            assert await plan_of(filled, listing.statement(question, ALL, given=given, limit=51))
