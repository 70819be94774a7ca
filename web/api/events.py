"""The log itself as JSON, and the exact bytes of every event."""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from eventstore.errors import NotFoundError
from eventstore.log.events import EventWithHeaders, ListedEvent, Recorded
from eventstore.log.failover import FailoverStatus
from eventstore.query.cursor import Page, page_of
from web.access import Access
from web.api.headers import parse_headers
from web.context import Context
from web.header_block import decode_headers
from web.parameters import NoParameters, PageQuery, Position, PositionOrZero
from web.route import COMMON_ERRORS, Route


class EventPath(msgspec.Struct, frozen=True):
    """Which event."""

    position: Position


class EventsQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the log."""

    after: Annotated[
        PositionOrZero, Meta(description="The position before the first event of the page.")
    ] = 0


class EventDetails(Recorded, frozen=True):
    """All that is on record of one event, but its body.

    `headers` are pairs of name and value, as received, credentials left out. `size` is the body's, in bytes; `sha256`
    is the body's too, in hexadecimal digits.
    """

    headers: list[tuple[str, str]]
    size: int
    sha256: str


async def list_events(
    context: Context, _access: Access, _: NoParameters, query: EventsQuery
) -> Page[ListedEvent, int]:
    """The events in order, without headers and bodies; `next` is the `after` of the next page."""
    found = await context.reader.list_events(query.after, query.limit + 1)
    return page_of(found, query.limit, lambda event: event.position)


async def show_event(
    context: Context, _access: Access, path: EventPath, _: NoParameters
) -> EventDetails:
    """One event with its headers."""
    event = await _find(context, path.position)
    return EventDetails(
        **{name: getattr(event, name) for name in Recorded.__struct_fields__},
        headers=parse_headers(
            decode_headers(event.headers, event.topic, event.merchant_id, event.program_id)
        ),
        size=len(event.body),
        sha256=hashlib.sha256(event.body).hexdigest(),
    )


async def show_body(context: Context, _access: Access, path: EventPath, _: NoParameters) -> bytes:
    """The exact bytes that were received."""
    return (await _find(context, path.position)).body


async def show_failover(
    context: Context, _access: Access, _path: NoParameters, _: NoParameters
) -> FailoverStatus:
    """On which timeline the log may grow, and what was accepted when."""
    return await context.reader.failover()


async def _find(context: Context, position: int) -> EventWithHeaders:
    event = await context.reader.event(position)
    if event is None:
        raise NotFoundError(what=f"event at position {position}")
    return event


ROUTES = [
    Route(
        method="GET",
        path="/v1/events",
        handler=list_events,
        query=EventsQuery,
        answer=Page[ListedEvent, int],
        scope="read",
    ),
    Route(
        method="GET",
        path="/v1/events/{position}",
        handler=show_event,
        path_parameters=EventPath,
        answer=EventDetails,
        errors=(*COMMON_ERRORS, NotFoundError),
        scope="read",
    ),
    Route(
        method="GET",
        path="/v1/events/{position}/body",
        handler=show_body,
        path_parameters=EventPath,
        answer=bytes,
        errors=(*COMMON_ERRORS, NotFoundError),
        scope="raw",
    ),
    Route(
        method="GET",
        path="/v1/failover",
        handler=show_failover,
        answer=FailoverStatus,
        scope="read",
    ),
]
