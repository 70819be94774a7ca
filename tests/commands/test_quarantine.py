"""`loopledger quarantine`: what could not be folded, and why."""

import pytest

from commands import quarantine
from tests.support.fake_loopledger import FakeLoopledger
from tests.support.running_commands import Serve, run_command


async def test_what_is_in_quarantine_is_listed_over_all_projections(serve: Serve) -> None:
    fake = await serve(FakeLoopledger())
    code, out, _ = await run_command(quarantine, fake.url, "list")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("trans")] == [
        f"transactions {position}: fitbank/66/transaction/TRA1" for position in (30, 17, 5)
    ]
    assert out.count("    TotalValue must be a decimal number, not null.") == 3


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
    assert "error: TotalValue must be a decimal number" in out
    assert "headers:\n  Host: localhost\n" in out
    assert r'{"TotalValue": null, ":100:":\x1b]0;"x"}' in out
