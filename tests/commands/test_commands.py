"""The commands that ask a running server, against one that says what docs/api.md promises."""

import argparse
import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import commands
from commands import projections, quarantine, rebuild
from commands._diff import money
from commands._http import NoDefaultUrlError, server_url_of
from commands._rebuilds import Pace
from commands._screen import Screen, console
from tests.support import ROOT
from tests.support.fake_loopledger import (
    DIFFERENT,
    JOURNAL,
    ROWS,
    SAME,
    FakeLoopledger,
    building,
    built,
    ready,
)

QUICK = Pace(poll=0.005, line=0.0, patience=5.0)
UNHEARD = "http://127.0.0.1:9"


class Result(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Serve = Callable[[FakeLoopledger], Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a fake server for a test."""
    started: list[FakeLoopledger] = []

    async def start(fake: FakeLoopledger) -> FakeLoopledger:
        started.append(fake)
        await fake.start()
        return fake

    yield start
    for fake in started:
        await fake.stop()


async def run_command(
    module: ModuleType,
    url: str,
    *arguments: str,
    pace: Pace = QUICK,
    ask: Callable[[str], str] | None = None,
    terminal: bool = False,
    width: int = 100,
) -> Result:
    """Run a command in a thread, beside the server in this one."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    given = parser.parse_args(["--url", url, *arguments])
    out, err = (console(file=io.StringIO(), width=width, force_terminal=terminal) for _ in range(2))
    screen = Screen(out, err, ask)
    options = (given, screen, pace) if module is rebuild else (given, screen)
    code = await asyncio.to_thread(module.run, *options)
    assert isinstance(out.file, io.StringIO)
    assert isinstance(err.file, io.StringIO)
    return Result(code, out.file.getvalue(), err.file.getvalue())


async def rebuilt(fake: FakeLoopledger, *options: str, **more: Any) -> Result:  # noqa: ANN401
    return await run_command(rebuild, fake.url, "transactions", *options, **more)


def never(question: str) -> str:
    raise AssertionError(question)


# loopledger projections


async def test_the_projections_are_listed_with_what_is_wrong_and_what_to_do(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(60)], under_way=True))
    code, out, _ = await run_command(projections, fake.url)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == [
        *("projection", "generation", "status"),
        *("checkpoint", "lag", "folded", "ignored", "quarantined", "stale"),
    ]
    assert " ".join(lines[1]) == "gift_cards 1 held up 5,210 2 4,991 210 0 no"
    assert " ".join(lines[3]) == "transactions 1 live 5,210 2 4,991 210 9 stale"
    assert "gift_cards is held up: DiskFullError: no space left (53100)" in out
    assert (
        "transactions is stale: other code folded it; run: loopledger rebuild transactions" in out
    )
    assert "generation 2 is building (60 %, 1,234 events/s, 0:01:15 left)" in out


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ready(), "generation 2 is ready; `loopledger rebuild transactions` shows its diff"),
        (ready(wanted="promote"), "generation 2 is ready; its promotion was requested"),
        (building(10, status="failed", error="OSError: x"), "generation 2 failed: OSError: x"),
    ],
)
async def test_a_rebuild_that_is_not_building_any_more_is_listed_as_what_it_is(
    serve: Serve, answer: dict[str, Any], expected: str
) -> None:
    fake = await serve(FakeLoopledger([answer], under_way=True))
    assert expected in (await run_command(projections, fake.url)).out


# The arguments of every command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("serve", "--workers", "abc"),
            "--workers: must be a whole number of at least 1, not 'abc'",
        ),
        (("serve", "--workers", "0"), "--workers: must be a whole number of at least 1, not '0'"),
        (("quarantine", "list", "--limit", "-3"), "--limit: must be a whole number of at least 1"),
        (("rejections", "show", "x"), "id: must be a whole number of at least 1, not 'x'"),
        (("simulate", "--rate", "x"), "--rate: must be a number greater than 0, not 'x'"),
        (("simulate", "--late", "2"), "--late: must be a number from 0 to 1, not '2'"),
        (("projections", "--url", "nonsense"), "--url: must be the address of a server, like http"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        commands.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"LOOPLEDGER_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"LOOPLEDGER_HOST": "0.0.0.0"}, "http://127.0.0.1:8080"),  # noqa: S104
        ({"LOOPLEDGER_HOST": "::", "LOOPLEDGER_PORT": "1"}, "http://[::1]:1"),
    ],
)
def test_a_command_finds_the_server_where_the_settings_put_it(
    environ: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert server_url_of(argparse.Namespace(url=None)) == url


def test_where_the_port_is_any_a_command_asks_for_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLEDGER_PORT", "0")
    with pytest.raises(NoDefaultUrlError, match="--url"):
        server_url_of(argparse.Namespace(url=None))
    assert server_url_of(argparse.Namespace(url=UNHEARD)) == UNHEARD


def test_without_a_server_vouching_says_where_no_postgres_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("LOOPLEDGER_DATA_DIR", str(tmp_path))
    assert commands.main(["rejections", "retry", "1", "--trust"]) == 1
    assert f"No embedded Postgres runs at {tmp_path}. Start the server" in capsys.readouterr().err


# loopledger rebuild: watching


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
        "status_changes 90 93 3 0",
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
    fake = await serve(FakeLoopledger([ready(DIFFERENT | {"totals": totals, "journal": None})]))
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


# loopledger rebuild: deciding


@pytest.mark.parametrize(
    ("answer", "posts"),
    [
        ("y", ["rebuild", "promote"]),
        ("YES ", ["rebuild", "promote"]),
        ("n", ["rebuild"]),
        ("", ["rebuild"]),
        ("p", ["rebuild"]),
    ],
)
async def test_a_person_is_asked(serve: Serve, answer: str, posts: list[str]) -> None:
    fake = await serve(FakeLoopledger())
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return answer

    code, out, _ = await rebuilt(fake, ask=ask, terminal=True)
    assert code == 0
    assert questions == ["Promote generation 2? [y/N] "]
    assert fake.posts == posts
    expected = "is live. To go back" if "promote" in posts else "stays ready and follows the log"
    assert expected in " ".join(out.split())


@pytest.mark.parametrize(("how", "code"), [(EOFError, 0), (KeyboardInterrupt, 130)])
async def test_who_does_not_answer_leaves_it_ready(
    serve: Serve, how: type[BaseException], code: int
) -> None:
    fake = await serve(FakeLoopledger())

    def ask(_: str) -> str:
        raise how

    result = await rebuilt(fake, ask=ask)
    assert result.code == code
    assert "stays ready and follows the log" in result.out
    assert fake.posts == ["rebuild"]


CASES: list[tuple[str, dict[str, Any], int, list[str], str]] = [
    ("--promote", DIFFERENT, 0, ["promote"], "Generation 2 of transactions is live."),
    ("--promote-if-unchanged", SAME, 0, ["promote"], "Generation 2 of transactions is live."),
    ("--promote-if-unchanged", DIFFERENT, 3, [], "There are differences, so it is not promoted."),
    ("--dry-run", DIFFERENT, 0, ["discard"], "Generation 2 is discarded."),
    ("--from-scratch-verify", SAME, 0, ["discard"], "equals a fresh fold of the log up to"),
    ("--from-scratch-verify", DIFFERENT, 3, ["discard"], "differs from a fresh fold of the log"),
]


@pytest.mark.parametrize(("option", "diff", "code", "posts", "expected"), CASES)
@pytest.mark.parametrize("slowly", [0, 3])
async def test_an_option_decides_without_asking(  # noqa: PLR0913 - a table of what is expected
    serve: Serve,
    *,
    option: str,
    diff: dict[str, Any],
    code: int,
    posts: list[str],
    expected: str,
    slowly: int,
) -> None:
    fake = await serve(FakeLoopledger(built(diff), slowly=slowly))
    result = await rebuilt(fake, option, ask=never)
    assert result.code == code
    assert fake.posts == ["rebuild", *posts]
    assert expected in result.out
    assert fake.live == (2 if "promote" in posts else 1)
    assert ("kind" in result.out) == bool(diff["columns"])


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": ROWS | {"added": 1}},
        {"rows": ROWS | {"gone": 1}},
        {"rows": ROWS | {"changed": 1}},
        {"journal": JOURNAL | {"added": 1}},
        {"journal": JOURNAL | {"gone": 1}},
    ],
    ids=str,
)
async def test_one_difference_anywhere_keeps_it_from_being_promoted(
    serve: Serve, changes: dict[str, Any]
) -> None:
    fake = await serve(FakeLoopledger(built(SAME | changes)))
    assert (await rebuilt(fake, "--promote-if-unchanged")).code == 3
    assert fake.live == 1


async def test_the_options_exclude_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        commands.main(["rebuild", "transactions", "--promote", "--dry-run"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--dry-run", "--from-scratch-verify"])
async def test_what_somebody_else_began_is_not_discarded(serve: Serve, option: str) -> None:
    fake = await serve(FakeLoopledger([ready(SAME)], under_way=True))
    code, out, _ = await rebuilt(fake, option)
    assert code == 0
    assert fake.posts == ["rebuild"]
    assert "This rebuild was started by somebody else, so it is not discarded." in out


async def test_one_that_is_ready_is_promoted(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([ready()], under_way=True))
    code, out, err = await rebuilt(fake, "--promote")
    assert (code, err, fake.live) == (0, "", 2)
    assert f"loopledger rebuild transactions --rollback --url {fake.url}" in out


@pytest.mark.parametrize("heeds", [True, False], ids=["heard", "unheard"])
@pytest.mark.parametrize("action", ["promote", "discard"])
async def test_a_promotion_or_a_discard_that_was_not_answered_is_seen_to_the_end(
    serve: Serve, *, action: str, heeds: bool
) -> None:
    fake = await serve(FakeLoopledger([ready()], under_way=True, deaf_to=action, heeds=heeds))
    assert (await rebuilt(fake, f"--{action}")).code == 0
    assert fake.posts.count(action) == (1 if heeds else 2)
    assert (fake.live, fake.under_way) == (2 if action == "promote" else 1, False)


async def test_a_generation_that_fails_while_it_is_promoted_is_told(serve: Serve) -> None:
    failed = building(100, status="failed", error="views cannot be made")
    script = [ready(), ready(), ready(), ready(wanted="promote"), failed]
    fake = await serve(FakeLoopledger(script, slowly=9))
    code, _, err = await rebuilt(fake, "--promote")
    assert (code, fake.posts) == (1, ["rebuild", "promote"])
    assert "views cannot be made" in err


async def test_a_rebuild_is_discarded(serve: Serve) -> None:
    for slowly in (0, 3):
        fake = await serve(FakeLoopledger([building(10)], under_way=True, slowly=slowly))
        code, out, _ = await rebuilt(fake, "--discard")
        assert (code, fake.posts, fake.under_way) == (0, ["discard"], False)
        assert out == "Generation 2 of transactions is discarded.\n"


async def test_there_may_be_nothing_to_discard(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, _, err = await rebuilt(fake, "--discard")
    assert (code, err) == (1, "loopledger: there is no rebuild of transactions\n")
    code, _, err = await run_command(rebuild, fake.url, "cards", "--discard")
    assert (code, err) == (1, "loopledger: There is no projection cards.\n")


async def test_a_promotion_is_taken_back(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    await rebuilt(fake, "--promote")
    code, out, _ = await rebuilt(fake, "--rollback")
    assert (code, fake.live) == (0, 1)
    assert out == "Generation 1 of transactions is live again and generation 2 is retired.\n"


async def test_a_rollback_that_takes_longer_is_followed(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(100, status="catching-up", lag=12)], slowly=3))
    fake.live, fake.retired = 2, 1
    code, _, err = await rebuilt(fake, "--rollback")
    assert (code, fake.live) == (0, 1)
    assert "catching-up: 12 events behind" in err


async def test_a_rollback_that_fails_says_why(serve: Serve) -> None:
    fake = await serve(FakeLoopledger(slowly=1))
    fake.live, fake.retired, fake.retired_error = 2, 1, "BuildFailedError: no space left"
    code, _, err = await rebuilt(fake, "--rollback")
    assert code == 1
    assert "generation 2 is still live: BuildFailedError: no space left." in err


async def test_there_may_be_nothing_to_go_back_to(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, _, err = await rebuilt(fake, "--rollback")
    assert (code, err) == (1, "loopledger: No generation of it was live before.\n")


async def test_a_rollback_is_never_sent_twice_for_the_second_would_undo_the_first(
    serve: Serve,
) -> None:
    fake = await serve(FakeLoopledger(deaf_to="rollback"))
    fake.live, fake.retired = 2, 1
    code, _, _ = await rebuilt(fake, "--rollback")
    assert (code, fake.live, fake.posts) == (0, 1, ["rollback"])
    fake.deaf_to, fake.heeds = "rollback", False
    code, _, err = await rebuilt(fake, "--rollback", pace=QUICK._replace(patience=0.05))
    assert (code, fake.live, fake.posts) == (1, 1, ["rollback", "rollback"])
    assert "Check `loopledger projections` before you try again." in err


@pytest.mark.parametrize("options", [(), ("--promote",), ("--discard",), ("--rollback",)])
async def test_where_no_server_answers_the_exit_code_is_2(options: tuple[str, ...]) -> None:
    code, _, err = await run_command(rebuild, UNHEARD, "transactions", *options)
    assert code == 2
    assert f"No server answers at {UNHEARD}" in err


async def test_another_server_is_told_apart(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([{"hello": "world"}], under_way=True))
    code, _, err = await rebuilt(fake)
    assert code == 1
    assert "is not what Loopledger sends" in err
    assert "missing required field" in err


# loopledger quarantine


async def test_what_is_in_quarantine_is_listed_over_all_projections(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, out, _ = await run_command(quarantine, fake.url, "list")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("trans")] == [
        f"transactions {position}: fitbank/66/transaction/TRA1" for position in (30, 17, 5)
    ]
    assert out.count("    ValidationError: Expected `decimal`, got `null`") == 3


async def test_where_there_is_room_each_event_in_quarantine_is_one_line(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    _, out, _ = await run_command(quarantine, fake.url, "list", width=200)
    heading, *lines = out.splitlines()
    assert heading.split() == ["projection", "position", "topic", "stream", "error"]
    assert [line.split()[1] for line in lines] == ["30", "17", "5"]


async def test_a_limit_of_the_list_says_that_there_is_more(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    arguments = ("list", "--projection", "transactions", "--limit")
    assert "There are more" in (await run_command(quarantine, fake.url, *arguments, "2")).out
    assert "There are more" not in (await run_command(quarantine, fake.url, *arguments, "3")).out


async def test_the_pages_of_a_long_list_are_put_together(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PAGE", 1)
    fake = await serve(FakeLoopledger())
    code, out, _ = await run_command(quarantine, fake.url, "list", "--limit", "2")
    assert code == 0
    assert "30" in out
    assert "17" in out


async def test_an_empty_quarantine_is_said_to_be_empty(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    _, out, _ = await run_command(quarantine, fake.url, "list", "--projection", "gift-cards")
    assert out == "Nothing is in quarantine.\n"


async def test_one_in_quarantine_is_shown_with_its_event_but_does_not_steer_the_terminal(
    serve: Serve,
) -> None:
    fake = await serve(FakeLoopledger())
    code, out, _ = await run_command(quarantine, fake.url, "show", "transactions", "17")
    assert code == 0
    assert "projection: transactions\nposition: 17\n" in out
    assert "error: ValidationError: Expected `decimal`" in out
    assert "headers:\n  Host: localhost\n" in out
    assert r'{"TotalValue": null, ":100:":\x1b]0;"x"}' in out


# The commands as they are typed


async def test_the_commands_are_there(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    fake = await serve(FakeLoopledger(built(SAME)))
    for arguments in (
        ["projections", "--url", fake.url],
        ["rebuild", "transactions", "--promote-if-unchanged", "--url", fake.url],
        ["quarantine", "--url", fake.url, "list"],
        ["quarantine", "show", "transactions", "17", "--url", fake.url],
    ):
        assert await asyncio.to_thread(commands.main, arguments) == 0
    assert "Generation 2 of transactions is live." in capsys.readouterr().out


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["rebuild", "--help"])
    text = capsys.readouterr().out
    for code in ("0  done", "1  the server", "2  no server", "3  there are", "130  interrupted"):
        assert code in text


async def test_control_c_leaves_the_rebuild_running_and_says_so(serve: Serve) -> None:
    fake = await serve(FakeLoopledger([building(10)]))
    process = await asyncio.create_subprocess_exec(*words(fake), cwd=ROOT, stderr=subprocess.PIPE)
    await fake.looked_at(2)
    process.send_signal(signal.SIGINT)
    err = (await process.communicate())[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted; the rebuild continues in the server" in err
    assert f"loopledger rebuild transactions --discard --url {fake.url}" in err
    assert fake.posts == ["rebuild"]


@pytest.mark.parametrize(("answer", "code", "live"), [(b"y\n", 0, 2), (None, 130, 1)])
async def test_the_question_is_asked_on_a_real_terminal(
    serve: Serve, answer: bytes | None, code: int, live: int
) -> None:
    fake = await serve(FakeLoopledger([ready()]))
    here, there = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *words(fake), cwd=ROOT, stdin=there, stdout=there, stderr=there
        )
        # Reading ends when the command does, and not before.
        os.close(there)
        shown = b""
        while b"Promote generation 2? [y/N] " not in shown:
            shown += await asyncio.to_thread(os.read, here, 4096)
        if answer:
            os.write(here, answer)
        else:
            process.send_signal(signal.SIGINT)
        assert await process.wait() == code
    finally:
        os.close(here)
    assert fake.live == live


def words(fake: FakeLoopledger) -> list[str]:
    return [sys.executable, "-m", "commands", "rebuild", "transactions", "--url", fake.url]
