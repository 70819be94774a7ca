"""Live: whoever subscribes to the log, or to the states of a projection, is told what comes, without loss or repeat.

A Feed reads what is new once for all its subscribers, and only while there are any. Who begins in the past reads that
by themselves, page by page, up to where they joined the feed; what comes in the meantime is kept for them. Of somebody
who does not keep up nothing more is kept: they read again by themselves from where they are.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import structlog

from eventstore.postgres.failures import describe, is_outage
from eventstore.tasks import Backoff, cancel_all, raise_if_cancelled, start_for_all

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.log.head import Head

Q = TypeVar("Q", bound=Hashable)

logger = structlog.get_logger()

# Seconds between tries while reading fails: the first, doubled up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0

# Seconds for which a feed goes on without subscribers: most of those that were cut off come back.
LINGERING_SECONDS = 5.0


class Place(NamedTuple):
    """How far somebody was told: up to `position`, in a generation of a projection; 0 is the log, which has none."""

    generation: int
    position: int


class Item(NamedTuple):
    """An event, or the newest state of a thing: `body` is JSON on one line, `stream` says which thing it is about."""

    position: int
    stream: str
    body: bytes


class Batch(NamedTuple):
    """What comes next, by position; with it, all up to `place` was told. `reset`: what was told before is void."""

    items: Sequence[Item]
    place: Place
    reset: bool = False


class Feed(ABC, Generic[Q]):
    """What is new, for all its subscribers in this process; a question `Q` says what of it somebody wants.

    `reading` bounds how many subscribers read the past at a time. `place` is how far this has told.
    """

    # Of what is kept, only the newest of each thing counts.
    newest_only = False

    def __init__(
        self, name: str, head: "Head", limits: "Limits", reading: asyncio.Semaphore
    ) -> None:
        self.place = Place(0, 0)
        self.limits = limits
        self._name = name
        self._head = head
        self._reading = reading
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._subscribers = 0
        self._subscriptions: set[Subscription[Q]] = set()
        self._joined: dict[Q, set[Subscription[Q]]] = {}

    async def subscribe(self, question: Q, after: Place | None) -> "Subscription[Q]":
        """Begin behind `after`, or with what comes from now on. The caller closes the subscription.

        Raises NotSetUpError.
        """
        self._subscribers += 1
        try:
            async with self._starting:
                if self._task is None:
                    self.place = await self._find_start()
                    self._task = start_for_all(self._run(), f"feed-{self._name}")
            place, reset = await self._begin(question, after)
        except BaseException:
            self._count_out()
            raise
        subscription = Subscription(self, question, place, reset=reset)
        self._subscriptions.add(subscription)
        return subscription

    async def close(self) -> None:
        """End: nobody is told anything more."""
        for subscription in tuple(self._subscriptions):
            subscription.end()
        self._stop()
        await cancel_all(*self._stopping)

    def join(self, subscription: "Subscription[Q]") -> Place:
        """Keep for a subscription what is told from here on; gives back where that is."""
        question = subscription.question
        if question not in self._joined:
            self._joined[question] = set()
            self._on_question(question)
        self._joined[question].add(subscription)
        return self.place

    def part(self, subscription: "Subscription[Q]") -> None:
        """Keep no more for a subscription, if it had joined."""
        question = subscription.question
        if (joined := self._joined.get(question)) is None:
            return
        joined.discard(subscription)
        if not joined:
            del self._joined[question]
            self._on_question_gone(question)

    def leave(self, subscription: "Subscription[Q]") -> None:
        """Forget a subscription."""
        if subscription in self._subscriptions:
            self.part(subscription)
            self._subscriptions.discard(subscription)
            self._count_out()

    async def read_past(self, question: Q, after: Place, through: Place) -> tuple[list[Item], int]:
        """A page of what follows `after`, but not beyond `through`; and up to which position that is all there is."""
        async with self._reading:
            return await self._read_past(question, after, through)

    @abstractmethod
    async def _find_start(self) -> Place:
        """How far it all reaches now."""

    @abstractmethod
    async def _begin(self, question: Q, after: Place | None, /) -> tuple[Place, bool]:
        """Where a subscription begins that asks for what follows `after`, and whether with a reset."""

    @abstractmethod
    async def _advance(self) -> None:
        """Wait until there may be more, and tell some of it."""

    @abstractmethod
    async def _read_past(self, question: Q, after: Place, through: Place) -> tuple[list[Item], int]:
        """What `read_past` gives."""

    @abstractmethod
    def _on_question(self, question: Q) -> None:
        """Note that somebody asks this from here on."""

    @abstractmethod
    def _on_question_gone(self, question: Q) -> None:
        """Note that nobody asks this any more."""

    def _tell(self, place: Place, told: Mapping[Q, Sequence[Item]]) -> None:
        """Tell what there is up to `place`, by the questions that it answers."""
        self.place = place
        for question, items in told.items():
            for subscription in tuple(self._joined.get(question, ())):
                subscription.keep(items)

    def _reset(self, place: Place) -> None:
        """Have everybody begin again at `place`."""
        self.place = place
        for subscription in self._subscriptions:
            subscription.reset(place)

    async def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                async with self._head.followed():
                    while True:
                        await self._advance()
                        backoff.reset()
            except Exception as error:
                raise_if_cancelled()
                if is_outage(error):
                    logger.warning(
                        "feed_waiting",
                        message="Live streams wait for Postgres.",
                        feed=self._name,
                        error=describe(error),
                    )
                else:
                    logger.error(
                        "feed_failed",
                        message="What is new could not be read for live streams; trying again.",
                        feed=self._name,
                        exc_info=error,
                    )
            await asyncio.sleep(backoff.next_pause())

    def _count_out(self) -> None:
        self._subscribers -= 1
        if not self._subscribers:
            asyncio.get_running_loop().call_later(LINGERING_SECONDS, self._stop_if_unused)

    def _stop_if_unused(self) -> None:
        if not self._subscribers:
            self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)


class Subscription(Generic[Q]):
    """Somebody who is told what answers a question, from `place` on."""

    def __init__(self, feed: Feed[Q], question: Q, place: Place, *, reset: bool) -> None:
        self.question = question
        self.place = place
        self.ended = False
        self._feed = feed
        self._reset = reset
        # Where it joined the feed: what comes before that is read, what comes behind it is kept.
        self._joined_at: Place | None = None
        self._kept: dict[int | str, Item] = {}
        self._woken = asyncio.Event()

    async def next(self, seconds: float) -> Batch:
        """What comes next; nothing if that takes longer than `seconds`, or once the subscription has ended."""
        if not self._reset and not self.ended:
            if self._joined_at is None:
                self._joined_at = self._feed.join(self)
            if self.place.position < self._joined_at.position:
                return await self._read_past(self._joined_at, seconds)
            if not self._kept:
                await self._wait(seconds)
        if self._reset:
            self._reset = False
            return Batch((), self.place, reset=True)
        items = [item for item in self._kept.values() if item.position > self.place.position]
        self._kept.clear()
        if self._joined_at is not None:
            self.place = max(self.place, self._feed.place)
        return Batch(items, self.place)

    def keep(self, items: Sequence[Item]) -> None:
        """Keep what is new for the next batch; if that is too much, nothing: it is read later."""
        for item in items:
            key = item.stream if self._feed.newest_only else item.position
            # So that what is kept stays in the order of positions.
            self._kept.pop(key, None)
            self._kept[key] = item
        if len(self._kept) > self._feed.limits.stream_items:
            self._part()
        self._woken.set()

    def reset(self, place: Place) -> None:
        """Begin again at `place`."""
        self._part()
        self.place = place
        self._reset = True
        self._woken.set()

    def end(self) -> None:
        """Have whoever waits for more go on, and find that it has ended."""
        self.ended = True
        self._woken.set()

    def close(self) -> None:
        """Be told no more."""
        self.end()
        self._feed.leave(self)

    def _part(self) -> None:
        self._feed.part(self)
        self._joined_at = None
        self._kept.clear()

    async def _read_past(self, through: Place, seconds: float) -> Batch:
        place = self.place
        items, position = await self._feed.read_past(self.question, place, through)
        if self._reset:
            return await self.next(seconds)
        self.place = Place(place.generation, position)
        if self.place == place:
            # Something is missing that only time may bring.
            await self._wait(min(seconds, self._feed.limits.poll_seconds))
        return Batch(items, self.place)

    async def _wait(self, seconds: float) -> None:
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._woken.wait()
