"""What is new, as it comes: Server-Sent Events of the log."""

from typing import Annotated

import msgspec
from msgspec import Meta

from eventstore.log.events import ListedEvent
from eventstore.query.live import Place
from eventstore.query.live_events import FILTERS, EventQuestion
from web.access import Access
from web.context import Context
from web.errors import TooManyKeyStreamsError, TooManyStreamsError
from web.live import EVENTS, LiveAnswer
from web.parameters import NoParameters, PositionOrZero
from web.route import COMMON_ERRORS, Route

ERRORS = (*COMMON_ERRORS, TooManyStreamsError, TooManyKeyStreamsError)


class AfterQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a stream begins."""

    after: Annotated[
        PositionOrZero | None,
        Meta(
            description="The position before the first event; without it, what comes from now on."
            " The header Last-Event-ID wins over it."
        ),
    ] = None


class EventStreamQuery(AfterQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    provider: Annotated[str | None, Meta(description="Only those of this provider.")] = None
    merchant_id: Annotated[str | None, Meta(description="Only those of this merchant.")] = None
    program_id: Annotated[str | None, Meta(description="Only those of this programme.")] = None
    topic: Annotated[str | None, Meta(description="Only those of this topic.")] = None
    stream: Annotated[str | None, Meta(description="Only those of this thing.")] = None


class StreamPath(msgspec.Struct, frozen=True):
    """Which thing."""

    stream: Annotated[
        str, Meta(description="The name of its stream, percent-encoded: a slash is %2F.")
    ]


async def stream_events(
    context: Context, access: Access, _: NoParameters, query: EventStreamQuery
) -> LiveAnswer:
    """The events as they come on record, in order, as Server-Sent Events named `event`."""
    given = {name: value for name in FILTERS if (value := getattr(query, name)) is not None}
    return _events(context, access, given, query.after)


async def stream_thing(
    context: Context, access: Access, path: StreamPath, query: AfterQuery
) -> LiveAnswer:
    """The events of one thing as they come on record, in order, as Server-Sent Events named `event`."""
    return _events(context, access, {"stream": path.stream}, query.after)


def _events(
    context: Context, access: Access, given: dict[str, str], after: int | None
) -> LiveAnswer:
    question = EventQuestion.of(given, access.visibility)
    return LiveAnswer(
        streams=context.live,
        feed=context.live.events,
        question=question,
        form=EVENTS,
        access=access,
        after=None if after is None else Place(0, after),
        private=question.merchants is not None,
    )


ROUTES = [
    Route(
        method="GET",
        path="/v1/events/stream",
        handler=stream_events,
        query=EventStreamQuery,
        answer=ListedEvent,
        live=True,
        errors=ERRORS,
        scope="read",
        per_merchant=True,
    ),
    Route(
        method="GET",
        path="/v1/things/{stream}/stream",
        handler=stream_thing,
        path_parameters=StreamPath,
        query=AfterQuery,
        answer=ListedEvent,
        live=True,
        errors=ERRORS,
        scope="read",
        per_merchant=True,
    ),
]
