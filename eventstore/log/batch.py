"""A batch on its way into the log: what waits for its commit, and how the database takes it."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import TypeAlias

import msgspec

from eventstore.errors import LoopledgerError, QueueFullError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.events import Appended, NewEvent

# The record separator and the unit separator of ASCII: between the names of a column, and for the one that is null.
SEPARATOR = "\x1e"
NULL = "\x1f"

# Random bytes beside each event: a salt for its headers and one for its body.
SALT_BYTES = 32

# How often, within the time that an append may take, what waits is searched for those whose time is up.
EXPIRY_CHECKS = 20

# Called with the outcome of an append: where the event went, or why it did not. Returns whether anybody still waited.
OnOutcome: TypeAlias = Callable[[Appended | LoopledgerError], bool]


class Pending(msgspec.Struct):
    """An event in the queue or in the batch that is being committed. `deadline` is by `time.monotonic`."""

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


class PendingQueue:
    """What waits for its turn, in order, within `queue_deliveries` and `queue_bytes`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[Pending] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._waiting)

    def add(self, event: NewEvent, on_outcome: OnOutcome, deadline: float | None = None) -> None:
        """Add an event; its deadline is `append_seconds` from now if None. Raises QueueFullError."""
        limits = self._limits
        size = len(event.headers) + len(event.body)
        if len(self._waiting) >= limits.queue_deliveries or self.size + size > limits.queue_bytes:
            raise QueueFullError(deliveries=len(self._waiting), size=self.size)
        if deadline is None:
            deadline = monotonic() + limits.append_seconds
        self._waiting.append(Pending(event, size, deadline, on_outcome))
        self.size += size

    def take_over(self, batch: Iterable[Pending]) -> None:
        """Add what another queue has admitted."""
        for pending in batch:
            self._waiting.append(pending)
            self.size += pending.size

    def take(self, most: int) -> list[Pending]:
        """Take a batch, at most `most` and `batch_bytes`; tells who waited too long."""
        limits, now = self._limits, monotonic()
        batch: list[Pending] = []
        size = 0
        while self._waiting and len(batch) < most:
            pending = self._waiting[0]
            if batch and size + pending.size > limits.batch_bytes:
                break
            self._waiting.popleft()
            self.size -= pending.size
            if pending.deadline <= now:
                report(pending, too_late(limits))
            elif not pending.reported:
                batch.append(pending)
                size += pending.size
        return batch

    def take_all(self) -> list[Pending]:
        """Take all that waits."""
        taken = [*self._waiting]
        self._waiting.clear()
        self.size = 0
        return taken


async def outcome_of(submit: Callable[[OnOutcome], None]) -> Appended:
    """Submit an event, and wait for its outcome: returns it, or raises it. Raises what `submit` does."""
    answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

    def on_outcome(outcome: Appended | LoopledgerError) -> bool:
        if answer.done():
            # A caller that was cancelled was told nothing, and may count on the event.
            return False
        if isinstance(outcome, Appended):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)
            # The caller may be gone; then nobody fetches this, and asyncio would complain.
            answer.exception()
        return True

    submit(on_outcome)
    return await answer


def too_late(limits: Limits) -> UnavailableError:
    """What is told of an event whose deadline has passed."""
    return UnavailableError(
        problem=f"no commit within {limits.append_seconds:g} s; Postgres may be away"
    )
