"""The log itself as JSON, and the exact bytes of every event."""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from eventstore.errors import CursorError, NotFoundError
from eventstore.log.events import EventWithHeaders, ListedEvent, Recorded
from eventstore.log.failover import FailoverStatus
from eventstore.query.cursor import Page
from eventstore.query.events import EVENTS
from eventstore.query.whole_lists import WholeList
from web.access import Access
from web.api.headers import parse_headers
from web.api.lists import ListQuery, list_query_of, question_of
from web.context import Context
from web.formats import EncodedPage
from web.header_block import decode_headers
from web.parameters import NoParameters, Position, PositionOrZero
from web.route import COMMON_ERRORS, Route
from web.whole import LIST_ERRORS, LIST_MEDIA


class EventPath(msgspec.Struct, frozen=True):
    """Which event."""

    position: Position


class EventsQuery(ListQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the log."""

    after: Annotated[PositionOrZero, Meta(description="Only events behind this position.")] = 0


class EventDetails(Recorded, frozen=True):
    """All that is on record of one event, but its body.

    `headers` are pairs of name and value, as received, credentials left out. `size` is the body's, in bytes; `sha256`
    is the body's too, in hexadecimal digits.
    """

    headers: list[tuple[str, str]]
    size: int
    sha256: str


async def list_events(
    context: Context, access: Access, _: NoParameters, query: EventsQuery
) -> EncodedPage:
    """The events in order, without headers and bodies."""
    page = await context.event_lists.page(
        question_of(EVENTS, query),
        access.visibility,
        limit=query.limit,
        cursor=query.cursor,
        after=query.after,
    )
    return EncodedPage(page.body, page.next)


async def whole_events(
    context: Context, access: Access, _: NoParameters, query: EventsQuery
) -> WholeList:
    """All of them."""
    given = (query.after, await context.event_lists.last_complete())
    return WholeList(EVENTS, question_of(EVENTS, query), access.visibility, given)


async def show_event(
    context: Context, access: Access, path: EventPath, _: NoParameters
) -> EventDetails:
    """One event with its headers."""
    event = await _find(context, access, path.position)
    return EventDetails(
        **{name: getattr(event, name) for name in Recorded.__struct_fields__},
        headers=parse_headers(
            decode_headers(event.headers, event.topic, event.merchant_id, event.program_id)
        ),
        size=len(event.body),
        sha256=hashlib.sha256(event.body).hexdigest(),
    )


async def show_body(context: Context, access: Access, path: EventPath, _: NoParameters) -> bytes:
    """The exact bytes that were received."""
    return (await _find(context, access, path.position)).body


async def show_failover(
    context: Context, _access: Access, _path: NoParameters, _: NoParameters
) -> FailoverStatus:
    """On which timeline the log may grow, and what was accepted when."""
    return await context.reader.failover()


async def _find(context: Context, access: Access, position: int) -> EventWithHeaders:
    event = await context.reader.event(position)
    if event is None or not access.visibility.includes(event.merchant_id):
        raise NotFoundError(what=f"event at position {position}")
    return event


ROUTES = [
    Route(
        method="GET",
        path="/v1/events",
        handler=list_events,
        whole=whole_events,
        media_types=LIST_MEDIA,
        query=list_query_of(EVENTS, "EventListQuery", base=EventsQuery),
        answer=Page[ListedEvent, str],
        errors=(*COMMON_ERRORS, CursorError, *LIST_ERRORS),
        per_merchant=True,
        scope="read",
        cache_control="private, no-cache",
    ),
    Route(
        method="GET",
        path="/v1/events/{position}",
        handler=show_event,
        path_parameters=EventPath,
        answer=EventDetails,
        errors=(*COMMON_ERRORS, NotFoundError),
        per_merchant=True,
        scope="read",
        cache_control="private, no-cache",
    ),
    Route(
        method="GET",
        path="/v1/events/{position}/body",
        handler=show_body,
        path_parameters=EventPath,
        answer=bytes,
        errors=(*COMMON_ERRORS, NotFoundError),
        per_merchant=True,
        scope="raw",
        cache_control="private, no-cache",
    ),
    Route(
        method="GET",
        path="/v1/failover",
        handler=show_failover,
        answer=FailoverStatus,
        scope="read",
    ),
]
