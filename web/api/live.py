"""What is new, as it comes: Server-Sent Events of the log, and of the states of every projection."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from eventstore.errors import NotSetUpError
from eventstore.fold.projection import Projection
from eventstore.log.events import ListedEvent
from eventstore.query.events import VALUE_FILTERS
from eventstore.query.filters import states_listing
from eventstore.query.live import Place
from eventstore.query.live_events import EventQuestion
from eventstore.query.live_states import StateQuestion
from eventstore.query.states import row_type_of
from web.access import Access
from web.auth import require
from web.context import Context
from web.errors import BadParameterError, TooManyKeyStreamsError, TooManyStreamsError
from web.live import EVENTS, STATES, LiveAnswer
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


Body = Annotated[
    bool, Meta(description="Tell the exact bytes of each too, in base64; that takes the scope raw.")
]


class ThingStreamQuery(AfterQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the stream of a thing begins, and how much it tells."""

    body: Body = False


class ToldEvent(ListedEvent, frozen=True, kw_only=True):
    """An event as streams tell it. `body` is there if it is asked for: the exact bytes, in base64."""

    body: bytes | msgspec.UnsetType = msgspec.UNSET


class EventStreamQuery(AfterQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    provider: Annotated[str | None, Meta(description="Only those of this provider.")] = None
    merchant_id: Annotated[str | None, Meta(description="Only those of this merchant.")] = None
    program_id: Annotated[str | None, Meta(description="Only those of this programme.")] = None
    topic: Annotated[str | None, Meta(description="Only those of this topic.")] = None
    stream: Annotated[str | None, Meta(description="Only those of this thing.")] = None
    body: Body = False


class StateStreamQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a stream of states begins, beside the filters of the projection."""

    after: Annotated[
        str | None,
        Meta(
            description="The id before the first state, or the position; without it, what changes from now on."
            " The header Last-Event-ID wins over it."
        ),
    ] = None


class StreamPath(msgspec.Struct, frozen=True):
    """Which thing."""

    stream: Annotated[
        str, Meta(description="The name of its stream, percent-encoded: a slash is %2F.")
    ]


async def stream_events(
    context: Context, access: Access, _: NoParameters, query: EventStreamQuery
) -> LiveAnswer:
    """The events as they come on record, in order, as Server-Sent Events named `event`."""
    given = {name: value for name in VALUE_FILTERS if (value := getattr(query, name)) is not None}
    return _events(context, access, given, query)


async def stream_thing(
    context: Context, access: Access, path: StreamPath, query: ThingStreamQuery
) -> LiveAnswer:
    """The events of one thing as they come on record, in order, as Server-Sent Events named `event`."""
    return _events(context, access, {"stream": path.stream}, query)


def _events(
    context: Context,
    access: Access,
    given: dict[str, str],
    query: EventStreamQuery | ThingStreamQuery,
) -> LiveAnswer:
    if query.body:
        require(access, "raw", whole_store=False)
    question = EventQuestion.of(given, access.visibility)
    return LiveAnswer(
        streams=context.live,
        feed=context.live.events,
        question=question,
        form=EVENTS,
        access=access,
        after=None if query.after is None else Place(0, query.after),
        private=question.merchants is not None,
        bodies=context.live.events if query.body else None,
    )


def route_of(projection: Projection[Any]) -> Route:
    """The route of the states of one projection as they change."""
    name = projection.name
    listing = states_listing(projection)

    async def stream_states(
        context: Context, access: Access, _: NoParameters, query: StateStreamQuery
    ) -> LiveAnswer:
        """The states that change, once they are folded, as Server-Sent Events named `state`."""
        given = {name: getattr(query, name) for name in listing.filters}
        after = None
        if query.after is not None and (after := STATES.place_of(query.after)) is None:
            problem = f"must be a position, or <generation>-<position>, not {query.after[:40]!r}"
            raise BadParameterError(parameter="after", problem=problem)
        return LiveAnswer(
            streams=context.live,
            feed=context.live.states[name],
            question=StateQuestion.of(
                {name: value for name, value in given.items() if value is not None},
                access.visibility,
            ),
            form=STATES,
            access=access,
            after=after,
            private=access.visibility.merchants is not None,
        )

    return Route(
        method="GET",
        path=f"/v1/{name.replace('_', '-')}/stream",
        handler=stream_states,
        query=state_stream_query_of(projection),
        answer=row_type_of(projection),
        live=True,
        errors=(*ERRORS, NotSetUpError),
        scope="read",
        per_merchant=True,
    )


def state_stream_query_of(projection: Projection[Any]) -> type[msgspec.Struct]:
    """The query parameters of a projection's stream: where it begins, and the filters of its list."""
    return msgspec.defstruct(
        f"{projection.state.__name__}StreamQuery",
        [
            (name, Annotated[one.type | None, Meta(description=one.description)], None)
            for name, one in states_listing(projection).filters.items()
        ],
        bases=(StateStreamQuery,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


ROUTES = [
    Route(
        method="GET",
        path="/v1/events/stream",
        handler=stream_events,
        query=EventStreamQuery,
        answer=ToldEvent,
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
        query=ThingStreamQuery,
        answer=ToldEvent,
        live=True,
        errors=ERRORS,
        scope="read",
        per_merchant=True,
    ),
]
