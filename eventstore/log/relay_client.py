"""Appending through another worker of this server, or in this process while there is none."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

import structlog

from eventstore.errors import RefusedError, UnavailableError
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.batch import (
    EXPIRY_CHECKS,
    OnOutcome,
    Pending,
    PendingQueue,
    outcome_of,
    report,
    report_all,
    too_late,
)
from eventstore.log.events import Appended, NewEvent
from eventstore.log.known_head import KnownHead
from eventstore.log.relay_messages import (
    ERRORS,
    Batch,
    Committed,
    Failed,
    FrameProtocol,
    Hello,
    Leaving,
    Message,
    Outcomes,
    Ping,
    State,
)
from eventstore.log.writer import Doubt, SeenHead
from eventstore.postgres.failures import describe
from eventstore.tasks import cancel_all

logger = structlog.get_logger()

# Batches that are handed over at one time: one is appended, and the next is there when it is done.
WINDOW = 2

# Seconds that a worker has for its first word, and between two tries to reach one.
HELLO_SECONDS = 2.0
RECONNECT_SECONDS = 0.2

# Seconds between two questions whether a worker lives, and after which one that says nothing is left alone.
PING_SECONDS = 0.5
SILENT_SECONDS = 2.0


class RelayingAppender:
    """Like an Appender: has another worker append, reached through `rendezvous`; `own` appends while there is none.

    The outcome of what was handed to a worker that dies is unknown, as after a lost session: `own` settles it. What was
    handed to one that lives but does not respond stays with that worker, and has an outcome by its deadline.
    """

    def __init__(self, own: Appender, rendezvous: socket.socket, limits: Limits) -> None:
        self._own = own
        # What this process has committed by itself.
        self.commits = own.commits
        self._rendezvous = rendezvous
        self._limits = limits
        self._link: _Link | None = None
        self._queue = PendingQueue(limits)
        self._to_hand_over = False
        self._stopping = False
        self._idle = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, known: KnownHead | None = None) -> None:
        """Begin to append; raises what `Appender.start` does."""
        await self._own.start(known)
        self._rendezvous.setblocking(False)  # noqa: FBT003 - its own signature
        self._tasks = [
            asyncio.create_task(self._stay_linked(), name="relay"),
            asyncio.create_task(self._watch(), name="relay-watch"),
        ]

    async def stop(self) -> None:
        """Wait for what is under way, for at most `drain_seconds`; the outcome of what is left is UnavailableError."""
        self._stopping = True
        self._idle.clear()
        if self._queue or (self._link is not None and self._link.batches):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drain_seconds):
                    await self._idle.wait()
        await cancel_all(*self._tasks)
        link, self._link = self._link, None
        left = self._queue.take_all()
        if link is not None:
            left = [*link.waiting(), *left]
        report_all(left, UnavailableError(problem="the server is stopping"))
        if link is not None:
            # They were reported: when the connection ends, there is nothing to settle.
            link.batches.clear()
            link.protocol.close()
        await self._own.stop()

    @property
    def refusal(self) -> str | None:
        """Why the database takes no appends at all, as Appender.refusal."""
        return self._own.refusal if (link := self._usable()) is None else link.state.refusal

    @property
    def outage(self) -> str | None:
        """Why nothing can be appended at the moment, as Appender.outage."""
        return self._own.outage if (link := self._usable()) is None else link.state.outage

    @property
    def queued(self) -> tuple[int, int]:
        """How many deliveries wait here, and their bytes; those that were handed over are counted over there."""
        deliveries, size = self._own.queued
        return deliveries + len(self._queue), size + self._queue.size

    @property
    def known_head(self) -> int:
        """A position that the log has reached."""
        return self._own.known_head if (link := self._usable()) is None else link.seen.position

    async def append(self, event: NewEvent) -> Appended:
        """Append one event, as Appender.append."""
        return await outcome_of(lambda on_outcome: self.submit(event, on_outcome))

    def submit(self, event: NewEvent, on_outcome: OnOutcome) -> None:
        """Append one event, and call `on_outcome` with the outcome, as Appender.submit."""
        if self._stopping:
            raise UnavailableError(problem="the server is stopping")
        if (link := self._usable()) is None:
            self._own.submit(event, on_outcome)
            return
        if link.state.refusal is not None:
            raise UnavailableError(problem=link.state.refusal)
        self._queue.add(event, on_outcome)
        self._hand_over_soon()

    def _usable(self) -> "_Link | None":
        link = self._link
        return None if link is None or link.leaving or link.silent else link

    def _hand_over_soon(self) -> None:
        # One iteration of the loop, so that requests that became ready together share the batch.
        if not self._to_hand_over:
            self._to_hand_over = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._to_hand_over = False
        while self._queue and (link := self._usable()) and len(link.batches) < WINDOW:
            link.send(self._queue.take(self._limits.batch_deliveries))
        if not self._queue and not (self._link and self._link.batches):
            self._idle.set()

    def _on_outcomes(self, link: "_Link") -> None:
        if link.leaving:
            self._append_queue_by_itself()
            if not link.batches:
                link.protocol.close()
        self._hand_over_soon()

    def _on_end(self, link: "_Link") -> None:
        """A worker is gone: settle what it had."""
        if self._link is link:
            self._link = None
        if link.batches:
            logger.warning(
                "relay_lost",
                message="The worker that appends for this one is gone; what it had is looked up in the log.",
                events=sum(1 for _ in link.waiting()),
            )
        for batch in link.batches.values():
            left = [pending for pending in batch.events if pending and not pending.reported]
            self._own.take_over(left, Doubt(link.writer, link.after, link.seen.acceptance))
        link.batches.clear()
        self._append_queue_by_itself()
        self._idle.set()

    def _append_queue_by_itself(self) -> None:
        self._own.take_over(self._queue.take_all(), None)

    async def _stay_linked(self) -> None:
        while True:
            # No descriptors or no memory now: the next try may find some.
            with suppress(OSError):
                if (link := await self._connect()) is not None:
                    self._link = link
                    await link.ended.wait()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self) -> "_Link | None":
        """Reach the worker that appends; None if it says nothing."""
        link = _Link(self._on_outcomes, self._on_end, self._own.note_head)
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._rendezvous, [b"\0"], [theirs.fileno()])
        except OSError:
            # Nobody has taken the last ones yet.
            ours.close()
            return None
        finally:
            theirs.close()
        ours.setblocking(False)  # noqa: FBT003 - its own signature
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: link.protocol, sock=ours)
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await link.greeted.wait()
        except TimeoutError:
            return None
        finally:
            if not link.greeted.is_set():
                link.protocol.close()
        return None if link.ended.is_set() else link

    async def _watch(self) -> None:
        """Tell those who have waited too long, and see whether the worker lives."""
        rest = min(PING_SECONDS, self._limits.append_seconds / EXPIRY_CHECKS)
        while True:
            await asyncio.sleep(rest)
            now = monotonic()
            link = self._link
            waiting = [*self._queue] if link is None else [*link.waiting(), *self._queue]
            for pending in waiting:
                if pending.deadline <= now:
                    report(pending, too_late(self._limits))
            if link is None:
                continue
            if not link.silent and now - link.heard_at > SILENT_SECONDS:
                logger.warning(
                    "relay_silent",
                    message="The worker that appends for this one does not respond; until it does, this one appends.",
                )
                link.silent = True
            if self._usable() is None:
                self._append_queue_by_itself()
            link.protocol.send(Ping())


class _Handed:
    """A batch that was handed over: its events, those with an outcome left out, and how many are left."""

    def __init__(self, events: list[Pending]) -> None:
        self.events: list[Pending | None] = [*events]
        self.left = len(events)


class _Link:
    """The connection to the worker that appends."""

    def __init__(
        self,
        on_outcomes: "Callable[[_Link], None]",
        on_end: "Callable[[_Link], None]",
        on_head: Callable[[SeenHead], None],
    ) -> None:
        self.protocol = FrameProtocol(self._on_message, self._end)
        self.greeted = asyncio.Event()
        self.ended = asyncio.Event()
        self.leaving = False
        self.silent = False
        self.heard_at = 0.0
        self.writer = ""
        # What has no outcome yet is not on record up to here: the worker appends in order.
        self.after = 0
        self.seen = SeenHead(0, 0)
        self.state = State(self.seen, None, None)
        self.batches: dict[int, _Handed] = {}
        self._sent = 0
        self._on_outcomes = on_outcomes
        self._on_end = on_end
        self._on_head = on_head

    def waiting(self) -> Iterator[Pending]:
        """What was handed over and has no outcome yet."""
        for batch in self.batches.values():
            yield from filter(None, batch.events)

    def send(self, batch: list[Pending]) -> None:
        """Hand a batch over. What cannot even be written down is refused."""
        if not batch:
            return
        message = Batch(
            self._sent + 1,
            [pending.event for pending in batch],
            [pending.deadline for pending in batch],
        )
        try:
            self.protocol.send(message)
        except UnicodeError as error:
            if len(batch) == 1:
                report(batch[0], RefusedError(problem=describe(error)))
                return
            middle = len(batch) // 2
            self.send(batch[:middle])
            self.send(batch[middle:])
            return
        self._sent += 1
        self.batches[self._sent] = _Handed(batch)

    def _on_message(self, message: Message) -> None:
        self.heard_at = monotonic()
        self.silent = False
        match message:
            case Hello(writer, seen):
                self.writer, self.after = writer, seen.position
                self._note(seen)
                self.greeted.set()
            case Outcomes(outcomes, seen):
                self._note(seen)
                for outcome in outcomes:
                    self._report(outcome)
                self._on_outcomes(self)
            case State(seen):
                self._note(seen)
                self.state = message
            case Leaving():
                self.leaving = True
                self._on_outcomes(self)

    def _note(self, seen: SeenHead) -> None:
        self.seen = seen
        # Where an operator accepted a loss, the log goes back.
        self.after = min(self.after, seen.position)
        self._on_head(seen)

    def _report(self, outcome: Committed | Failed) -> None:
        batch = self.batches[outcome.number]
        if isinstance(outcome, Failed):
            first, count = outcome.index, 1
        else:
            first, count = outcome.first, outcome.count
            self.after = outcome.position + count - 1
        for index in range(first, first + count):
            pending, batch.events[index] = batch.events[index], None
            if pending is None:
                message = "an event has two outcomes"
                raise ValueError(message)
            if isinstance(outcome, Failed):
                report(pending, ERRORS[outcome.error](**outcome.facts))
            else:
                report(pending, Appended(outcome.position + index - first, outcome.recorded_at))
        batch.left -= count
        if not batch.left:
            del self.batches[outcome.number]

    def _end(self) -> None:
        self.ended.set()
        self._on_end(self)
