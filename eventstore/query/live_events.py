"""The log, live: its events as they come on record, in order, none left out and none twice."""

import asyncio
import binascii
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from eventstore.log.events import ListedEvent
from eventstore.log.reader import read_events
from eventstore.query.events import EVENTS
from eventstore.query.listing import Question
from eventstore.query.live import Feed, Item, Place
from eventstore.query.queries import QUERIES
from eventstore.query.visibility import Visibility
from eventstore.tasks import Backoff

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.log.head import Head
    from eventstore.log.reader import Reader
    from eventstore.postgres.database import Database

# So many positions are looked through at a time for the events of a filter, unless an index leads to them.
WINDOW = 20_000

# Seconds between two looks for an event that the head says is there and that is not: the first, doubled up to the poll.
FIRST_GAP_PAUSE = 0.02


class EventQuestion(msgspec.Struct, frozen=True):
    """Which events: those with these values (names and values, by name), of these merchants (None: of all)."""

    filters: tuple[tuple[str, str], ...] = ()
    merchants: tuple[str, ...] | None = None

    @classmethod
    def of(cls, filters: Mapping[str, str], visibility: Visibility) -> "EventQuestion":
        """The question for what a Visibility shows of the events with these values."""
        return cls(tuple(sorted(filters.items())), visibility.merchants)

    @property
    def is_for_all(self) -> bool:
        """Whether every event is wanted."""
        return not self.filters and self.merchants is None


class EventFeed(Feed[EventQuestion]):
    """The events that come on record, whichever process appends them."""

    def __init__(
        self,
        database: "Database",
        reader: "Reader",
        head: "Head",
        limits: "Limits",
        reading: asyncio.Semaphore,
    ) -> None:
        super().__init__("events", head, limits, reading)
        self._database = database
        self._reader = reader
        self._index = QuestionIndex()
        self._gap = Backoff(FIRST_GAP_PAUSE, limits.poll_seconds)

    async def _find_start(self) -> Place:
        await self._head.refresh()
        if self._database.distributed:
            # A machine may show an event later than the head does.
            complete: int = await self._database.fetchval(QUERIES["read_complete"], True)  # noqa: FBT003 - as above
            return Place(0, complete)
        return Place(0, self._head.position)

    async def _begin(self, question: EventQuestion, after: Place | None) -> tuple[Place, bool]:
        if after is None:
            return self.place, False
        if after.position > self.place.position and question.merchants is None:
            await self._head.refresh()
            if after.position > self._head.position:
                # Of a log that reached further, before its end was lost.
                return self.place, True
        return Place(0, after.position), False

    async def _advance(self) -> None:
        place = self.place.position
        await self._head.wait_until_elsewhere(place)
        if self._head.position < place:
            self._reset(Place(0, self._head.position))
            return
        events = await self._reader.list_events(place, self.limits.fold_events)
        if not events:
            await asyncio.sleep(self._gap.next_pause())
            return
        self._gap.reset()
        told: dict[EventQuestion, list[Item]] = defaultdict(list)
        for event in events:
            if questions := self._index.answered_by(event):
                item = item_of(event)
                for question in questions:
                    told[question].append(item)
        self._tell(Place(0, events[-1].position), told)

    async def _read_past(
        self, question: EventQuestion, after: Place, through: Place
    ) -> tuple[list[Item], int]:
        limit = self.limits.stream_page_items
        if question.is_for_all:
            events = await self._reader.list_events(after.position, limit)
            found = [event for event in events if event.position <= through.position]
            return [item_of(event) for event in found], found[
                -1
            ].position if found else after.position
        end = through.position
        if "stream" not in dict(question.filters):
            end = min(end, after.position + WINDOW)
        asked = Question(filters=dict(question.filters))
        conditions, values = EVENTS.conditions(asked, Visibility(question.merchants), first=4)
        query = QUERIES["read_past_events"].format(conditions=conditions)
        rows = await self._database.fetch(query, after.position, end, limit, *values)
        items = [item_of(ListedEvent(*row)) for row in rows]
        return items, items[-1].position if len(items) == limit else end

    async def with_bodies(self, items: Sequence[Item]) -> AsyncIterator[Item]:
        """The same events, each with its `body`: the exact bytes, in base64. A few MiB of them are read at a time."""
        positions = [item.position for item in items]
        bodies = read_events(self._database, positions, self.limits)
        by_position = {item.position: item for item in items}
        async for event in bodies:
            item = by_position[event.position]
            body = binascii.b2a_base64(event.body, newline=False)
            yield item._replace(body=b'%b,"body":"%b"}' % (item.body[:-1], body))

    def _on_question(self, question: EventQuestion) -> None:
        self._index.add(question)

    def _on_question_gone(self, question: EventQuestion) -> None:
        self._index.remove(question)


def item_of(event: ListedEvent) -> Item:
    """An event as it is told."""
    return Item(event.position, event.stream, msgspec.json.encode(event))


class QuestionIndex:
    """Finds the questions that an event answers, by its values, however many questions there are."""

    def __init__(self) -> None:
        # By the names of the filters, then by their values.
        self._questions: dict[tuple[str, ...], dict[tuple[str, ...], list[EventQuestion]]] = {}

    def add(self, question: EventQuestion) -> None:
        """Add a question that is not there yet."""
        for names, values in _keys(question):
            self._questions.setdefault(names, {}).setdefault(values, []).append(question)

    def remove(self, question: EventQuestion) -> None:
        """Remove a question."""
        for names, values in _keys(question):
            by_values = self._questions[names]
            by_values[values].remove(question)
            if not by_values[values]:
                del by_values[values]
            if not by_values:
                del self._questions[names]

    def answered_by(self, event: ListedEvent) -> list[EventQuestion]:
        """The questions that an event answers."""
        return [
            question
            for names, by_values in self._questions.items()
            for question in by_values.get(tuple(getattr(event, name) for name in names), ())
        ]


def _keys(question: EventQuestion) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The names and values that an event has to have, for each merchant whose events are wanted."""
    wanted = dict(question.filters)
    if question.merchants is None:
        yield tuple(wanted), tuple(wanted.values())
        return
    for merchant in question.merchants:
        if wanted.get("merchant_id", merchant) == merchant:
            of_merchant = {**wanted, "merchant_id": merchant}
            yield (
                tuple(sorted(of_merchant)),
                tuple(of_merchant[name] for name in sorted(of_merchant)),
            )
