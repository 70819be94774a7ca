"""A batch on its way into the log: what waits for its commit, and how the database takes it."""

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from eventstore.errors import LoopledgerError
from eventstore.log.events import Appended, NewEvent

# The record separator and the unit separator of ASCII: between the names of a column, and for the one that is null.
SEPARATOR = "\x1e"
NULL = "\x1f"

# Random bytes beside each event: a salt for its headers and one for its body.
SALT_BYTES = 32

# Called with the outcome of an append: where the event went, or why it did not. Returns whether anybody still waited.
OnOutcome: TypeAlias = Callable[[Appended | LoopledgerError], bool]


class Pending(msgspec.Struct):
    """An event in the queue or in the batch that is being committed. `deadline` is in the loop's time."""

    event: NewEvent
    size: int
    deadline: float
    on_outcome: OnOutcome
    reported: bool = False


def columns_of(batch: Sequence[Pending]) -> tuple[object, ...]:
    """The batch by column, as the query `append` takes it.

    Names and numbers go as one text a column, since a driver encodes a long text in the time of two short ones: it
    halves what an event costs here. A separator cannot occur in them: names are printable text.
    """
    events = [pending.event for pending in batch]
    return (
        [event.event_id for event in events],
        SEPARATOR.join([event.provider for event in events]),
        SEPARATOR.join([event.topic for event in events]),
        SEPARATOR.join([event.merchant_id for event in events]),
        SEPARATOR.join([event.program_id or NULL for event in events]),
        SEPARATOR.join([event.stream for event in events]),
        [event.received_at for event in events],
        [event.headers for event in events],
        [event.body for event in events],
        os.urandom(SALT_BYTES * len(events)),
    )


def report(pending: Pending, outcome: Appended | LoopledgerError) -> None:
    """Tell whoever waits for an event what became of it, once."""
    if not pending.reported:
        pending.reported = pending.on_outcome(outcome)


def report_all(batch: Sequence[Pending], outcome: LoopledgerError) -> None:
    """Tell all of them the same."""
    for pending in batch:
        report(pending, outcome)
