"""Tasks end with who waits for them; pauses between tries grow, and begin afresh after a success."""

import asyncio

import pytest

from eventstore.tasks import Backoff, cancel_all, in_background, run_all


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next_pause() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_pauses_begin_afresh_after_a_reset() -> None:
    backoff = Backoff(0.1, 0.5)
    backoff.next_pause()
    backoff.reset()
    assert backoff.next_pause() == 0.1


@pytest.mark.parametrize(("lived", "pause"), [(0.9, 2.0), (1.1, 1.0)])
def test_pauses_begin_afresh_when_it_went_well_for_long_after_the_last(
    monkeypatch: pytest.MonkeyPatch, lived: float, pause: float
) -> None:
    now = 0.0
    monkeypatch.setattr("eventstore.tasks.time.monotonic", lambda: now)
    backoff = Backoff(1.0, 8.0, stable_seconds=1.0)
    # What is tried goes on only after the pause.
    now += backoff.next_pause() + lived
    assert backoff.next_pause() == pause


async def test_when_one_fails_the_others_end_and_its_error_is_raised() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        message = "it failed"
        raise ValueError(message)

    with pytest.raises(ValueError, match="failed"):
        await run_all(wait(), fail())
    assert ended.is_set()


async def test_what_runs_in_the_background_ends_with_the_block() -> None:
    async with in_background(asyncio.Event().wait(), "waiting") as task:
        assert task.get_name() == "waiting"
    assert task.cancelled()


async def test_cancelling_waits_for_the_end_and_raises_nothing() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise ValueError from None

    task = asyncio.create_task(fail_when_cancelled())
    await asyncio.sleep(0)
    await cancel_all(task)
    assert isinstance(task.exception(), ValueError)
