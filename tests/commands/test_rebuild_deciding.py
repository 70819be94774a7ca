"""`loopledger rebuild` once it is ready: promoted, discarded, rolled back, by whom and how often."""

import json
from typing import Any

import pytest

import commands
from commands import rebuild
from tests.support.fake_loopledger import (
    DIFFERENT,
    POSTINGS,
    ROWS,
    SAME,
    TIMELINE,
    FakeLoopledger,
    building,
    built,
    ready,
)
from tests.support.running_commands import QUICK, Serve, never, rebuilt, run_command


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
        {"timeline": TIMELINE | {"added": 1}},
        {"timeline": TIMELINE | {"gone": 1}},
        {"timeline": TIMELINE | {"changed": 1}},
        {"postings": POSTINGS | {"changed": 1}},
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
    assert (code, err) == (1, "loopledger: There is no rebuild of transactions.\n")
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


async def test_without_a_name_all_that_are_stale_are_rebuilt(serve: Serve) -> None:
    fake = await serve(FakeLoopledger(built(SAME)))
    code, out, err = await run_command(rebuild, fake.url, "--promote")
    assert (code, fake.posts, fake.live) == (0, ["rebuild", "promote"], 2)
    assert out.startswith("To be rebuilt: transactions\nRebuild of transactions started\n")
    assert "generation 2 building: 60 %" in err


async def test_where_nothing_is_stale_nothing_is_rebuilt(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    fake.stale = False
    code, out, _ = await run_command(rebuild, fake.url, "--promote")
    assert (code, out, fake.posts) == (0, "No projection is stale.\n", [])
    code, out, _ = await run_command(rebuild, fake.url, "--json")
    assert (code, out) == (0, '{"items":[]}\n')


async def test_what_has_to_be_named_is_asked_for(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    for option in ("--discard", "--rollback"):
        code, _, err = await run_command(rebuild, fake.url, option)
        assert (code, fake.posts) == (2, [])
        assert err == f"loopledger: {option} needs the name of a projection.\n"


async def test_one_that_cannot_be_rebuilt_does_not_keep_the_others_from_it(serve: Serve) -> None:
    fake = await serve(FakeLoopledger(built(SAME)))
    # Verifying is for all: the fake knows of others, which it cannot rebuild.
    code, out, err = await run_command(rebuild, fake.url, "--from-scratch-verify", "--json")
    items = {item["projection"]: item for item in json.loads(out)["items"]}
    assert code == 1
    assert {name: item["exit_code"] for name, item in items.items()} == {
        "gift_cards": 1,
        "locations": 1,
        "transactions": 0,
    }
    assert items["gift_cards"]["error"] == "There is no projection gift_cards."
    assert items["transactions"]["outcome"] == "discarded"
    assert items["transactions"]["rebuild"]["diff"]["position"] == 5210
    assert "There is no projection gift_cards." in err


async def test_for_programs_nobody_is_asked_and_the_outcome_is_one_object(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, out, err = await rebuilt(fake, "--json", ask=never)
    (item,) = json.loads(out)["items"]
    assert (code, item["outcome"], item["error"]) == (0, "ready", None)
    assert item["rebuild"]["diff"]["columns"] == {"phase": 3, "kind": 12}
    assert "Generation 2 stays ready" in err
