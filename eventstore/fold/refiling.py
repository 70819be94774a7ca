"""Which stream an event is folded in: that of the thing which it is about, by the decoder of today.

An event is filed once, under what its provider's code could read then. Where it is about another thing it is
*refiled*: folded there, never where it is on record, and entered as such for the generation that folded it.
"""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from eventstore.fold.projection import Source
from eventstore.fold.queries import QUERIES
from eventstore.log.events import Event
from eventstore.log.reader import read_events, read_stream

if TYPE_CHECKING:
    from eventstore.limits import Limits
    from eventstore.log.reader import Fetching

# How many refiled events of one stream are looked for at a time.
REFILED_PAGE = 100


class Refiled(NamedTuple):
    """An event that is folded in another stream than that on record."""

    position: int
    stream: str
    refiled_to: str


def stream_of(source: Source, event: Event, fact: Any) -> str:  # noqa: ANN401 - facts are the providers'
    """The stream that an event belongs to; `fact` is None if it could not be read. That on record, if nothing tells."""
    if fact is not None:
        return source.stream_of(event, fact)
    try:
        return source.stream_of(event, None)
    except Exception:  # noqa: BLE001 - as `decode`, it may raise whatever it likes
        return event.stream


def find_stream(sources: Mapping[str, Source], event: Event) -> str:
    """The stream that an event belongs to; that on record if no source knows its topic."""
    source = sources.get(event.provider)
    if source is None or event.topic not in source.topics:
        return event.stream
    try:
        fact = source.decode(event)
    except Exception:  # noqa: BLE001 - as in a fold
        fact = None
    return stream_of(source, event, fact)


async def read_thing(
    database: "Fetching",
    projection: str,
    generation: int | None,
    stream: str,
    limits: "Limits",
    after: int = 0,
) -> AsyncIterator[Event]:
    """The events on record in a stream, and those that a generation (None: the live one) refiled to it, in order.

    Only those after a position. Of the former, some may belong to others: `find_stream` tells.
    """
    own = read_stream(database, stream, limits, after)
    others = _read_refiled(database, projection, generation, stream, limits, after)
    one, other = await anext(own, None), await anext(others, None)
    while one is not None or other is not None:
        if one is not None and (other is None or one.position < other.position):
            yield one
            one = await anext(own, None)
        elif other is not None:
            yield other
            other = await anext(others, None)


async def _read_refiled(
    database: "Fetching",
    projection: str,
    generation: int | None,
    stream: str,
    limits: "Limits",
    after: int,
) -> AsyncIterator[Event]:
    while True:
        rows = await database.fetch(
            QUERIES["list_refiled"], projection, generation, stream, after, REFILED_PAGE
        )
        async for event in read_events(database, [row["position"] for row in rows], limits):
            yield event
        if len(rows) < REFILED_PAGE:
            return
        after = rows[-1]["position"]
