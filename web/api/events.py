"""The log itself as JSON, and the exact bytes of every event."""

import hashlib

from aiohttp import web

from eventstore.log.events import EventWithHeaders
from web import parameters
from web.context import CONTEXT, Page, bytes_response, header_pairs, json_response
from web.problems import NotFoundError


async def list_events(request: web.Request) -> web.Response:
    """`GET /v1/events?after=&limit=`: the log in order; `next` is the `after` of the next page."""
    context = request.app[CONTEXT]
    parameters.known_only(request, {"after", "limit"})
    limit = parameters.page_length(request)
    after = parameters.whole_number(request, "after", 0)
    events = await context.reader.list_events(after, limit + 1)
    more = len(events) > limit
    return json_response(Page(events[:limit], events[limit - 1].position if more else None))


async def show_event(request: web.Request) -> web.Response:
    """`GET /v1/events/{position}`: all that is on record of one event, but its body."""
    event = await _event(request)
    return json_response(
        {
            "position": event.position,
            "event_id": event.event_id,
            "provider": event.provider,
            "topic": event.topic,
            "merchant_id": event.merchant_id,
            "program_id": event.program_id,
            "stream": event.stream,
            "received_at": event.received_at,
            "recorded_at": event.recorded_at,
            "headers": header_pairs(event.headers),
            "size": len(event.body),
            "sha256": hashlib.sha256(event.body).hexdigest(),
        }
    )


async def show_body(request: web.Request) -> web.Response:
    """`GET /v1/events/{position}/body`: the bytes as they were received."""
    event = await _event(request)
    return bytes_response(event.body)


async def _event(request: web.Request) -> EventWithHeaders:
    parameters.known_only(request, set())
    position = parameters.as_whole_number(request.match_info["position"], "position", least=1)
    event = await request.app[CONTEXT].reader.event(position)
    if event is None:
        raise NotFoundError(what=f"event at position {position}")
    return event
