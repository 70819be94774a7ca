"""The history of a stream explains its state."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from hypothesis import given, settings

from eventstore.fold.columns import shown_columns_of
from eventstore.log.events import Event
from eventstore.query.history_fold import fold_steps
from tests.support import reference_model
from tests.support.generated_deliveries import PROVIDERS, logs, of_tenant, to_log
from tests.support.live_fold import PROJECTIONS, folded
from tests.support.reference_model import Json, Sent

T = TypeVar("T")


@settings(max_examples=150)
@given(logs())
def test_the_changes_of_a_history_add_up_to_the_state_and_its_duplicates_are_the_repeats(
    deliveries: list[Sent],
) -> None:
    log = to_log([of_tenant(delivery, 1) for delivery in deliveries])

    async def check() -> None:
        for name, projection in PROJECTIONS.items():
            repeats = reference_model.expect(name, deliveries).repeats
            states = folded(projection, log).states
            for stream in {event.stream for event in log}:
                indexes = [n for n, event in enumerate(log) if event.stream == stream]
                own = _each(log[n] for n in indexes)
                steps = fold_steps(projection, PROVIDERS, stream, own, {})
                state: Json = dict.fromkeys(
                    column.name for column in shown_columns_of(projection.state)
                )
                applied = False
                for index in indexes:
                    step = await anext(steps)
                    assert {name: state[name] for name in step.changes} == {
                        name: change.before for name, change in step.changes.items()
                    }
                    state |= {name: change.after for name, change in step.changes.items()}
                    judged = step.verdict not in {"ignored", "quarantined"}
                    assert (step.verdict == "duplicate") == (index in repeats)
                    assert (step.error is not None) == (step.verdict == "quarantined")
                    applied = applied or judged
                assert await anext(steps, None) is None
                assert states.get(stream) == (state if applied else None)

    _run(check())


async def _each(events: Iterator[Event]) -> Any:  # noqa: ANN401 - an async iterator of them
    for event in events:
        yield event


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(coroutine)
