"""States, live: of each thing that has changed the newest state, once its projection has folded what changed it."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from eventstore.errors import NotSetUpError
from eventstore.fold.projection import Projection
from eventstore.query.filters import states_listing
from eventstore.query.listing import Question, Statement
from eventstore.query.live import Feed, Item, Place
from eventstore.query.money import NO_UNITS, UnitsByProvider
from eventstore.query.queries import QUERIES
from eventstore.query.row_json import json_object
from eventstore.query.visibility import Visibility
from eventstore.tasks import Backoff

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.limits import Limits
    from eventstore.log.head import Head
    from eventstore.postgres.database import Database

# Seconds between two looks at a projection that has yet to fold what is on record: the first, doubled up to the poll.
FIRST_FOLD_PAUSE = 0.01


class StateQuestion(msgspec.Struct, frozen=True):
    """Which states: those that pass these filters of their list (names and values, by name), as far as they are shown.

    Deleted things are among them, unless a filter says otherwise: a deletion is a change like any other.
    """

    filters: tuple[tuple[str, Any], ...] = ()
    visibility: Visibility = Visibility()

    @classmethod
    def of(cls, filters: Mapping[str, Any], visibility: Visibility) -> "StateQuestion":
        """The question for what a Visibility shows of the states that pass these filters."""
        return cls(tuple(sorted(filters.items())), visibility)


class StateFeed(Feed[StateQuestion]):
    """The states of one projection that change, whichever process folds."""

    newest_only = True

    def __init__(
        self,
        projection: Projection[Any],
        database: "Database",
        head: "Head",
        limits: "Limits",
        reading: asyncio.Semaphore,
        units: UnitsByProvider = NO_UNITS,
    ) -> None:
        super().__init__(projection.name, head, limits, reading)
        self._database = database
        self._listing = states_listing(projection, units)
        self._folding = Backoff(FIRST_FOLD_PAUSE, limits.poll_seconds)

    async def _find_start(self) -> Place:
        row = await self._database.fetchrow(QUERIES["read_live_place"], self._name)
        if row is None:
            raise NotSetUpError(projection=self._name)
        return Place(row["generation"], row["checkpoint"])

    async def _begin(self, _: StateQuestion, after: Place | None) -> tuple[Place, bool]:
        if after is None:
            return self.place, False
        if after.generation and after.generation != self.place.generation:
            live = await self._find_start()
            # Perhaps it is this feed that is behind; then it is about to see that.
            if after.generation != live.generation or live.generation != self.place.generation:
                return self.place, True
        return Place(self.place.generation, after.position), False

    async def _advance(self) -> None:
        before = self.place
        await self._wait(before.position)
        place = await self._find_start()
        if place.generation != before.generation or place.position < before.position:
            self._reset(place)
        elif place.position > before.position:
            self._folding.reset()
            await self._tell_new(before, place)

    async def _wait(self, position: int) -> None:
        """Wait until there may be more: events to be folded, or another generation that is live."""
        seconds = self.limits.poll_seconds
        if self._head.position > position:
            seconds = self._folding.next_pause()
            position = self._head.position
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._head.wait_beyond(position)

    async def _tell_new(self, before: Place, place: Place) -> None:
        """Tell what has changed."""
        questions = list(self._joined)
        rows = await self._read_new(before, place, questions)
        while not self._joined.keys() <= set(questions):
            # Whoever joined meanwhile wants to be told of these too.
            questions = list(self._joined)
            rows = await self._read_new(before, place, questions)
        told: dict[StateQuestion, list[Item]] = defaultdict(list)
        for position, stream, texts, answered in rows:
            items = [Item(position, stream, text.encode()) for text in texts]
            for number in answered:
                question = questions[number]
                told[question].append(items[-1 if question.visibility.revealed else 0])
        if len(rows) == self.limits.fold_events:
            place = Place(before.generation, rows[-1]["position"])
        self._tell(place, told)

    async def _read_new(
        self, before: Place, place: Place, questions: Sequence[StateQuestion]
    ) -> "list[Record]":
        """What has changed, and the numbers of the questions that each answers: with one statement, however many."""
        if not questions:
            return []
        numbered, values = [], list[object]()
        for number, question in enumerate(questions):
            conditions = self._conditions(question, 4 + len(values))
            numbered.append(f"CASE WHEN {conditions.sql} THEN {number} END")
            values += conditions.values
        # Masked first.
        shown = sorted({question.visibility.revealed for question in questions})
        items = ", ".join(map(self._item, shown))
        return await self._fetch(
            "read_new_states",
            {
                "items": f"ARRAY[{items}]",
                "answered": f"ARRAY[{', '.join(numbered)}]::integer[]",
            },
            before.position,
            place.position,
            self.limits.fold_events,
            *values,
        )

    async def _read_past(
        self, question: StateQuestion, after: Place, through: Place
    ) -> tuple[list[Item], int]:
        limit = self.limits.stream_page_items
        conditions = self._conditions(question, 4)
        rows = await self._fetch(
            "read_past_states",
            {"item": self._item(question.visibility.revealed), "conditions": conditions.sql},
            after.position,
            through.position,
            limit,
            *conditions.values,
        )
        items = [Item(position, stream, text.encode()) for position, stream, text in rows]
        return items, items[-1].position if len(items) == limit else through.position

    def _conditions(self, question: StateQuestion, first: int) -> Statement:
        """What holds of the states that answer a question, with parameters from number `first` on."""
        asked = Question(filters=dict(question.filters))
        return self._listing.conditions(asked, question.visibility, first)

    def _item(self, revealed: bool) -> str:  # noqa: FBT001 - mapped over
        """SQL for a state as its list has it."""
        return json_object(tuple(self._listing.fields.values()), revealed=revealed)

    async def _fetch(self, name: str, words: Mapping[str, str], *values: object) -> "list[Record]":
        query = QUERIES[name].format(**self._listing.words, **words)
        try:
            return await self._database.fetch(query, *values)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise NotSetUpError(projection=self._name) from error

    def _on_question(self, question: StateQuestion) -> None:
        """Ask it with the others."""

    def _on_question_gone(self, question: StateQuestion) -> None:
        """Ask it no more."""
