"""Feeds: what is new is read once for all, nobody who does not keep up costs memory, and nobody misses anything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.live import Batch, Place, Subscription
from eventstore.query.live_events import EventFeed, EventQuestion
from tests.support import new_event
from tests.support.log import Log

LIMITS = Limits(poll_seconds=0.05, stream_items=10, stream_page_items=7)
ALL = EventQuestion()


class Site:
    """A log and its feed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.log = Log(database, LIMITS)
        self.feed = EventFeed(
            database, self.log.reader, self.log.head, LIMITS, asyncio.Semaphore(2)
        )

    async def append(self, count: int, merchant: str = "m-1") -> None:
        """Append events."""
        events = [new_event(merchant=merchant) for _ in range(count)]
        await asyncio.gather(*map(self.log.appender.append, events))

    async def told_up_to(self, position: int) -> None:
        """Return once the feed has told all up to here."""
        async with asyncio.timeout(10):
            while self.feed.place.position < position:  # noqa: ASYNC110 - a feed tells its subscribers only
                await asyncio.sleep(0.01)


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    found = Site(database)
    await found.log.start(follow=False)
    yield found
    await found.feed.close()
    await found.log.stop()


@asynccontextmanager
async def subscribed(
    site: Site, question: EventQuestion = ALL, after: int | None = None
) -> AsyncIterator[Subscription[EventQuestion]]:
    place = None if after is None else Place(0, after)
    subscription = await site.feed.subscribe(question, place)
    yield subscription
    subscription.close()


async def taken(subscription: Subscription[EventQuestion], count: int) -> list[int]:
    """The positions of so many items, of as many batches as they take."""
    found: list[int] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += [item.position for item in (await subscription.next(1)).items]
    return found


async def test_who_does_not_keep_up_misses_nothing_and_little_is_kept_for_them(site: Site) -> None:
    async with subscribed(site) as slow, subscribed(site) as quick:
        assert await slow.next(0) == await quick.next(0) == Batch([], Place(0, 0))
        for number in range(10):
            await site.append(5)
            await site.told_up_to(5 * (number + 1))
            assert len(slow._kept) <= LIMITS.stream_items
            assert await taken(quick, 5) == list(range(5 * number + 1, 5 * number + 6))
        assert await taken(slow, 50) == list(range(1, 51))


async def test_who_begins_in_the_past_of_a_log_that_grows_is_told_each_event_once(
    site: Site,
) -> None:
    await site.append(40)
    async with subscribed(site, after=3) as subscription:
        growing = asyncio.create_task(grow(site))
        found = await taken(subscription, 87)
        await growing
        assert found == list(range(4, 91))
        assert (await subscription.next(0.1)).items == []


async def grow(site: Site) -> None:
    for _ in range(25):
        await site.append(2)


async def test_who_sees_few_merchants_is_told_of_no_others(site: Site) -> None:
    of_two = EventQuestion(merchants=("m-2", "m-3"))
    of_one = EventQuestion((("merchant_id", "m-2"),), ("m-2", "m-3"))
    of_none = EventQuestion((("merchant_id", "m-1"),), ("m-2", "m-3"))
    questions = {of_two: [2, 3, 5, 6], of_one: [2, 5], of_none: []}
    # Half of it is read, half is told.
    await append_each(site)
    async with AsyncExitStack() as stack:
        subscriptions = [
            await stack.enter_async_context(subscribed(site, question, after=0))
            for question in questions
        ]
        told = [[item.position for item in (await one.next(0)).items] for one in subscriptions]
        await append_each(site)
        await site.told_up_to(6)
        for subscription, before, positions in zip(
            subscriptions, told, questions.values(), strict=True
        ):
            assert before == [position for position in positions if position <= 3]
            after = (await subscription.next(0)).items
            assert before + [item.position for item in after] == positions


async def append_each(site: Site) -> None:
    for merchant in ("m-1", "m-2", "m-3"):
        await site.append(1, merchant)


async def test_where_the_end_of_the_log_was_lost_everybody_is_told_so(site: Site) -> None:
    await site.append(5)
    async with subscribed(site) as subscription:
        assert (await subscription.next(0)).place == Place(0, 5)
        await lose_end(site.database, 3)
        async with asyncio.timeout(10):
            assert await subscription.next(10) == Batch((), Place(0, 3), reset=True)
    async with subscribed(site, after=5) as later:
        assert await later.next(0) == Batch((), Place(0, 3), reset=True)


async def lose_end(database: Database, position: int) -> None:
    """As a replica that took over does, once an operator has accepted it."""
    async with database.transaction() as connection:
        # What defends the log would defend it from this too.
        await connection.execute(
            "ALTER TABLE log_head DISABLE TRIGGER ALL; ALTER TABLE events DISABLE TRIGGER ALL"
        )
        await connection.execute("DELETE FROM events WHERE position > $1", position)
        await connection.execute(
            "UPDATE log_head SET position = $1, acceptance = acceptance + 1", position
        )


async def test_nothing_is_read_while_nobody_subscribes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.query.live.LINGERING_SECONDS", 0.0)
    async with subscribed(site):
        assert "feed-events" in tasks()
    await asyncio.sleep(0.05)
    assert not tasks() & {"feed-events", "listen", "poll"}


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}
