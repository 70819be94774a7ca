"""`loopledger rebuild` while it watches: what is shown, and what ends it."""

import asyncio

import pytest

from commands import rebuild
from commands._diff import money
from tests.support.fake_loopledger import DIFFERENT, SAME, FakeLoopledger, building, built, ready
from tests.support.running_commands import QUICK, Serve, never, rebuilt, run_command


async def test_a_rebuild_is_watched_and_left_ready_where_nobody_can_be_asked(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, out, err = await rebuilt(fake)
    assert code == 0
    assert fake.posts == ["rebuild"]
    assert err.splitlines() == [
        "generation 2 building: 10 %, 1,234 events/s, 0:01:15 left",
        "generation 2 building: 60 %, 1,234 events/s, 0:01:15 left",
        "generation 2 catching-up: 12 events behind",
    ]
    assert "Rebuild of transactions started" in out
    assert "ready after 4.2 s: 5,000 events folded, 210 ignored, 0 quarantined" in out
    assert f"loopledger rebuild transactions --promote --url {fake.url}" in out
    assert f"loopledger rebuild transactions --discard --url {fake.url}" in out


async def test_lines_come_no_more_often_than_the_pace_says(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    _, _, err = await rebuilt(fake, pace=QUICK._replace(line=60.0))
    assert len(err.splitlines()) == 1


async def test_the_diff_is_shown_so_that_a_person_can_decide(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    _, out, _ = await rebuilt(fake)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for expected in (
        "transactions: generation 2 (new) against generation 1 (live), both at position 5,210",
        "before after added gone changed",
        "rows 40 41 1 0 12",
        "transactions_timeline 90 93 3 0 0",
        "transactions_postings 90 90 0 0 2",
        "quarantined events 9 0",
        "phase 3",
        "phase currency before after change",
        "settled BRL 18,250.00 19,475.50 +1,225.50",
        "failed null 120.00 120.00 0.00",
        "Rows that differ (2 of 13)",
        "fitbank/66/transaction/TRA1: kind withdrawal -> deposit (since event 17)",
        r'loopz/m-1/transaction/t-9: reference null -> po\x1b[2J-77, tip "" -> 2',
    ):
        assert expected in lines
    assert lines.index("kind 12") < lines.index("phase 3")


def test_an_amount_keeps_every_digit_and_cents_stay_whole() -> None:
    assert money("1234567.5", minor=False) == "1,234,567.50"
    assert money("0.12345", minor=False, signed=True) == "+0.12345"
    assert money("-3", minor=False, signed=True) == "-3.00"
    assert money("18250.0000", minor=False) == "18,250.00"
    assert money("12000", minor=True) == "12,000"
    assert money(None, minor=True) == "0"
    assert money("many", minor=True) == "many"


async def test_totals_of_balances_say_that_they_are_cents(serve: Serve) -> None:
    items = [{"currency": "USD", "before": 12000, "after": 12500, "change": 500}]
    totals = {"amount": "balance", "by": ["currency"], "items": items}
    fake = await serve(FakeLoopledger([ready(DIFFERENT | {"totals": totals, "timeline": None})]))
    _, out, _ = await rebuilt(fake)
    assert "Totals of balance, in minor units (cents)" in out
    assert "+500" in out


async def test_a_live_generation_that_stands_still_is_said_to(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([ready(SAME | {"live_position": 5000})]))
    _, out, _ = await rebuilt(fake)
    assert "at position 5,210; the live one is stopped at 5,000" in " ".join(out.split())
    assert "No differences." in out


async def test_one_that_is_under_way_is_joined(serve: Serve) -> None:
    fake = await serve(FakeLoopledger(under_way=True))
    code, out, _ = await rebuilt(fake)
    assert code == 0
    assert "Rebuild of transactions is under way already; joining it" in out


async def test_a_bar_is_drawn_on_a_terminal(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    result = await rebuilt(fake, terminal=True, pace=QUICK._replace(poll=0.15))
    assert "generation 2 building" in result.err
    assert "60 %, 1,234 events/s, 0:01:15 left" in result.err
    assert "generation 2 catching-up" in result.err


async def test_a_server_that_is_started_again_does_not_end_the_watching(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(10)]))
    watching = asyncio.create_task(rebuilt(fake, "--promote"))
    await fake.looked_at(3)
    await fake.stop()
    await asyncio.sleep(0.1)
    fake.script = [503, 503, building(60), ready()]
    await fake.start()
    code, out, err = await watching
    assert code == 0
    assert "the server does not respond; waiting for it" in err
    assert "Generation 2 of transactions is live" in out


async def test_a_server_that_stays_away_ends_the_watching(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(10)]))
    watching = asyncio.create_task(rebuilt(fake, pace=QUICK._replace(patience=0.05)))
    await fake.looked_at(3)
    await fake.stop()
    code, _, err = await watching
    assert code == 2
    assert f"No server answers at {fake.url}" in err


async def test_a_rebuild_that_failed_says_why(serve: Serve) -> None:
    failed = building(10, status="failed", error="a builder died 3 times")
    fake = await serve(FakeLoopledger([building(10), failed]))
    code, _, err = await rebuilt(fake, "--promote")
    assert code == 1
    assert "Generation 2 of transactions could not be built: a builder died 3 times." in err
    assert fake.posts == ["rebuild"]


@pytest.mark.parametrize(
    ("options", "end", "code", "expected"),
    [
        ((), "discard", 1, "The rebuild of transactions is gone: it was discarded"),
        (
            (),
            "promote",
            0,
            "Generation 2 of transactions is live: it was promoted in the meantime.",
        ),
        (("--promote",), "promote", 0, "Generation 2 of transactions is live"),
        (("--dry-run",), "promote", 1, "Generation 2 of transactions is live"),
    ],
)
async def test_a_rebuild_that_somebody_else_ends_is_told(
    serve: Serve, options: tuple[str, ...], end: str, code: int, expected: str
) -> None:
    fake = await serve(FakeLoopledger([building(10)]))
    watching = asyncio.create_task(rebuilt(fake, *options))
    await fake.looked_at(3)
    getattr(fake, end)()
    result = await watching
    assert result.code == code
    assert expected in result.out + result.err
    assert fake.posts == ["rebuild"]


async def test_one_that_is_to_be_promoted_anyway_is_followed_until_it_is(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([ready(wanted="promote")], under_way=True))
    watching = asyncio.create_task(rebuilt(fake, ask=never))
    await fake.looked_at(3)
    fake.promote()
    assert (await watching).code == 0


async def test_one_that_the_server_begins_again_under_another_number_is_followed(
    serve: Serve,
) -> None:
    again = [building(0, generation=3), ready(SAME, generation=3)]
    fake = await serve(FakeLoopledger([building(0), building(60), *again]))
    code, out, _ = await rebuilt(fake)
    assert code == 0
    assert "Generation 3 stays ready" in out


async def test_one_that_nobody_works_at_yet_says_so_instead_of_a_percentage(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(100, target=None), *built()]))
    _, _, err = await rebuilt(fake)
    assert err.startswith("generation 2 building: waiting for the projecting process\n")


async def test_what_takes_its_time_at_the_end_is_named(serve: Serve) -> None:
    indexing = building(100, seconds_left=0)
    comparing = building(100, status="catching-up", lag=0)
    fake = await serve(FakeLoopledger([indexing, comparing, ready()]))
    _, _, err = await rebuilt(fake)
    assert err.splitlines() == [
        "generation 2 building: 100 %, 1,234 events/s, building indexes",
        "generation 2 catching-up: caught up, being compared",
    ]


async def test_a_projection_that_does_not_exist_is_refused_in_the_servers_words(
    serve: Serve,
) -> None:
    fake = await serve(FakeLoopledger())
    code, _, err = await run_command(rebuild, fake.url, "gift-certificates")
    assert code == 1
    assert err == "loopledger: There is no projection gift_certificates.\n"
