"""The benchmark of rebuilds compares like with like; how fast anything was is not looked at."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from benchmarks.harness.api import Api
from benchmarks.harness.command import BenchmarkError
from benchmarks.rebuild.alternatives import ByHand, index_like
from benchmarks.rebuild.api import check, discard, rebuild
from benchmarks.rebuild.copy import copy_without_timelines
from benchmarks.rebuild.events import COLUMNS, Plan, lines
from benchmarks.rebuild.loading import copy_events
from benchmarks.rebuild.report import Run, ratios_of, results
from eventstore.fold.folding import fold, handles
from eventstore.fold.status import Diff, Rebuild, Rows
from eventstore.log.events import Event
from projections import load_projections
from providers import load_providers
from tests.conftest import StartLoopledger
from tests.support.live_fold import shown

if TYPE_CHECKING:
    from asyncpg import Connection, Record

PLAN = Plan(events=4_000, cards=200, transactions=400)
PROVIDERS = load_providers({})
PROJECTIONS = load_projections()


def fields(line: str) -> dict[str, Any]:
    """What Postgres would take from a line of a COPY."""
    assert line.endswith("\n")
    values = line[:-1].split("\t")
    plain = (None if v == r"\N" else v.replace(r"\r\n", "\r\n") for v in values)
    return dict(zip(COLUMNS, plain, strict=True))


@pytest.fixture(scope="module")
def log() -> list[Event]:
    """The events of a small plan."""
    found = []
    for given in map(fields, lines(PLAN)):
        given.pop("headers")
        given["body"] = given["body"].encode()
        found.append(msgspec.convert(given, Event, strict=False))
    return found


def test_every_line_is_where_its_provider_would_put_it() -> None:
    for position, line in enumerate(lines(PLAN), 1):
        given = fields(line)
        headers = dict(pair.split(": ", 1) for pair in given["headers"].splitlines())
        found = PROVIDERS[given["provider"]].recognise(headers, given["body"].encode())
        assert found.stream == given["stream"]
        assert (found.topic, found.merchant_id, found.program_id) == (
            given["topic"],
            given["merchant_id"],
            given["program_id"],
        )
        assert position == int(given["position"])


def test_there_are_as_many_things_as_planned(log: list[Event]) -> None:
    kinds = Counter(stream.split("/")[2] for stream in {event.stream for event in log})
    assert kinds == {"gift-card": 200, "transaction": 400}
    assert len(log) == 4_000
    assert len({event.event_id for event in log}) == 4_000
    assert {event.provider for event in log} == {"loopz", "fitbank"}


def test_the_same_seed_gives_the_same_log() -> None:
    assert list(lines(PLAN)) == list(lines(PLAN))


def test_a_log_too_short_for_its_things_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        next(lines(Plan(events=100, cards=50, transactions=50)))


@pytest.mark.parametrize("name", ["gift_cards", "transactions"])
def test_the_newest_snapshot_is_the_whole_truth_about_a_thing(name: str, log: list[Event]) -> None:
    projection = PROJECTIONS[name]
    streams: dict[str, list[Event]] = defaultdict(list)
    for event in log:
        if handles(projection, PROVIDERS, event.provider, event.topic):
            streams[event.stream].append(event)
    stale = 0
    for events in streams.values():
        state, newest = None, events[0]
        for event in events:
            folded = fold(projection, PROVIDERS, state, event)
            assert folded.error is None
            stale += folded.verdict == "stale"
            if folded.verdict == "applied":
                assert folded.state != state
                newest = event
            state = folded.state
        assert state is not None
        alone = fold(projection, PROVIDERS, None, newest).state
        created_at = state.created_at if alone.created_at is None else alone.created_at
        assert created_at is not None
        assert shown(msgspec.structs.replace(alone, created_at=created_at)) == shown(state)
    assert stale > 0


async def test_the_query_makes_what_is_folded_live_and_what_a_rebuild_makes(
    connection: "Connection[Record]", start: StartLoopledger
) -> None:
    await copy_events(connection, PLAN, lambda _: None)
    async with start() as loopledger, aiohttp.ClientSession() as session:
        api = Api(loopledger.url, session, loopledger.local_key)
        await api.caught_up()
        for name in ("gift_cards", "transactions"):
            by_hand = ByHand(connection, name, f"{name}_1")
            await by_hand.set_up()
            await by_hand.make(PLAN.events)
            made, live = await by_hand.hashes()
            assert made == live
            assert made.rows > 0
            assert await indexes(connection, f"by_hand.{name}") == await indexes(
                connection, f"projected.{name}_1"
            )
            rebuilt = await rebuild(api, name, lambda _: None)
            assert rebuilt.build > 0
            await discard(api, name)


async def indexes(connection: "Connection[Record]", table: str) -> list[str]:
    """What a table's indexes are of, in whatever order."""
    schema, name = table.split(".")
    rows = await connection.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 AND tablename = $2", schema, name
    )
    return sorted(re.sub(r"INDEX \S+ ON \S+", "INDEX", row["indexdef"]) for row in rows)


def test_an_index_is_made_again_on_another_table() -> None:
    definition = "CREATE UNIQUE INDEX a_pkey ON public.a USING btree (stream) WHERE (x > 1)"
    assert index_like(definition) == ("UNIQUE ", "USING btree (stream) WHERE (x > 1)")
    plain = "CREATE INDEX b ON public.a USING brin (at)"
    assert index_like(plain) == ("", "USING brin (at)")
    with pytest.raises(BenchmarkError, match="no such index"):
        index_like("CREATE SOMETHING")


@pytest.mark.parametrize(
    ("rows", "quarantined", "problem"),
    [
        (Rows(before=3, after=3, added=0, gone=0, changed=1), 0, "not what the live fold made"),
        (Rows(before=3, after=4, added=1, gone=0, changed=0), 0, "not what the live fold made"),
        (None, 0, "not what the live fold made"),
        (Rows(before=3, after=3, added=0, gone=0, changed=0), 2, "in quarantine"),
    ],
)
def test_a_rebuild_that_is_wrong_is_an_error(
    rows: Rows | None, quarantined: int, problem: str
) -> None:
    diff = Diff(
        position=3,
        live_position=3,
        rows=rows or Rows(3, 3, 0, 0, 0),
        columns={},
        totals=None,
        sample=[],
    )
    found = Rebuild(
        name="gift_cards",
        generation=2,
        status="ready",
        wanted=None,
        target=3,
        percent=100,
        events_per_second=1,
        seconds_left=None,
        checkpoint=3,
        lag=0,
        folded=3,
        ignored=0,
        quarantined=quarantined,
        error=None,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        ready_at=None,
        diff=None if rows is None else diff,
    )
    with pytest.raises(BenchmarkError, match=problem):
        check("gift_cards", found)


def test_a_copy_of_loopledger_keeps_no_timelines(tmp_path: Path) -> None:
    copy_without_timelines(tmp_path / "copy", ["gift_cards", "locations", "transactions"])
    script = (
        "from projections import load_projections as load;"
        "print([name for name, each in load().items() if each.timeline is not None])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "copy",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert (tmp_path / "copy" / "server.py").is_file()


def run_of(way: str, projection: str, round_: int, rate: float) -> Run:
    return Run(
        way=way,
        projection=projection,
        round=round_,
        events=100,
        seconds=100 / rate,
        events_per_second=rate,
        cpu_seconds=1,
        program_bytes=None,
        postgres_bytes=round_,
        other_cpus=0,
    )


def test_medians_are_of_the_rounds_and_ratios_of_the_same_round() -> None:
    rates = {
        ("limit", "all"): (100.0, 10.0, 50.0),
        ("sql", "gift_cards"): (20.0, 5.0, 10.0),
        ("loopledger", "gift_cards"): (10.0, 10.0, 10.0),
    }
    runs = [
        run_of(way, projection, round_, rate)
        for (way, projection), each in rates.items()
        for round_, rate in enumerate(each, 1)
    ]
    assert [(r.way, r.events_per_second, r.postgres_bytes) for r in results(runs)] == [
        ("limit", 50.0, 2),
        ("sql", 10.0, 2),
        ("loopledger", 10.0, 2),
    ]
    assert [(r.name, r.beside, r.at, r.ratio) for r in ratios_of(runs)] == [
        ("loopledger", "sql", "gift_cards", 1.0),
        ("loopledger", "limit", "gift_cards", 0.2),
    ]
