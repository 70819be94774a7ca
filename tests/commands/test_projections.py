"""`loopledger projections`: what is wrong, and what to do."""

from typing import Any

import pytest

from commands import projections
from tests.support.fake_loopledger import FakeLoopledger, building, ready
from tests.support.running_commands import Serve, run_command


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
