"""Folding the log with a projector, as a server does."""

import asyncio
from collections.abc import Sequence
from typing import Any

from eventstore.fold.folding import handled_topics
from eventstore.fold.projection import Projection
from eventstore.fold.projector import Projector
from eventstore.fold.registry import Registry
from eventstore.limits import Limits
from eventstore.log.events import Event, NewEvent
from eventstore.postgres.database import Database
from projections.gift_cards import PROJECTION
from providers import load_providers
from tests.support.log import Log

PROVIDERS = load_providers({})
LIMITS = Limits(fold_events=50, poll_seconds=0.05)
TOPICS = sorted(handled_topics(PROJECTION, PROVIDERS))


async def projector(
    database: Database,
    log: Log,
    projection: Projection[Any] = PROJECTION,
    limits: Limits = LIMITS,
) -> Projector[Any]:
    """A projector of the live generation, set up."""
    found = Projector(
        projection,
        sources=PROVIDERS,
        database=database,
        reader=log.reader,
        head=log.head,
        registry=Registry(database),
        limits=limits,
    )
    await found.set_up()
    return found


async def append(database: Database, events: Sequence[NewEvent]) -> list[Event]:
    """Put events on record, in this order; gives back those that concern gift cards, if the log was empty."""
    log = Log(database, LIMITS)
    await log.start(follow=False)
    await asyncio.gather(*map(log.appender.append, events))
    found = await log.reader.read_slice(0, len(events), TOPICS)
    await log.stop()
    assert found.through == len(events)
    return found.events


async def fold_live(database: Database, projection: Projection[Any] = PROJECTION) -> None:
    """Have the live generation of a projection fold all there is."""
    one = await projector(database, Log(database, LIMITS), projection)
    while await one.fold_next():
        pass
