"""A route as a value: what it takes, what it answers, what can go wrong, and the handler.

The table of all routes (make_routes in web.app) describes the API completely: documentation can be made from it alone.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

import msgspec
from aiohttp import hdrs, web

from eventstore.errors import HiddenHeadError, LoopledgerError, NotFoldedError, UnavailableError
from eventstore.query.whole_lists import WholeList
from web.access import Access, Scope
from web.auth import ACCESS, log_secrets_read, require
from web.context import Context
from web.cross_origin import add_vary
from web.errors import (
    BadBodyError,
    BadParameterError,
    InsufficientScopeError,
    InvalidKeyError,
    KeyTooBusyError,
    MalformedHeaderError,
    MissingKeyError,
    NotAcceptableError,
    TooManyError,
    TooManyReadsError,
)
from web.formats import EncodedJson, EncodedPage, Negotiated
from web.live import LiveAnswer
from web.parameters import NoParameters, ParameterReader, at_least_of, read_body
from web.representation import represent
from web.whole import JSON, LIST_MEDIA, ListWriter, check_no_page, chosen_media

# The errors that any route of the JSON API may answer with.
COMMON_ERRORS = (
    BadParameterError,
    MalformedHeaderError,
    MissingKeyError,
    InvalidKeyError,
    InsufficientScopeError,
    KeyTooBusyError,
    NotAcceptableError,
    TooManyError,
    TooManyReadsError,
    UnavailableError,
)

# How an answer may be kept: states not at all; events by whoever asked, who has to ask again each time, since one may
# be erased.
CacheControl: TypeAlias = Literal["no-store", "private, no-cache"]

# What has no entity tag: it is about a moment.
OF_THE_MOMENT = frozenset({"health", "metrics"})

WholeHandler: TypeAlias = Callable[[Context, Access, Any, Any], Awaitable[WholeList]]

Handler: TypeAlias = Callable[[Context, Access, Any, Any], Awaitable[Any]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route. Its handler is called with the context, who asks, the parameters of the path and those of the query.

    `path_parameters` and `query` are the Structs that these come in; with a `body`, the Struct that it is read into
    takes the place of those of the query. `answer` is the type of the response's body: a Struct, written as JSON, or
    bytes; a handler may give it encoded, streamed or negotiated (web.formats), or wrapped in an Answer. `statuses` are
    the statuses that an answer can have, the usual one first; `errors` are those that can take its place (see
    web.problems). `cache_control` says who may keep it. Of a list, `whole` says what is to be written where CSV or
    NDJSON is asked for. `live`: the answer goes on, as Server-Sent Events whose data are `answer`. A route without a
    handler is served by web.ingest. `per_merchant`: a key of some merchants may use it, and what it answers obeys the
    visibility of its access; else it is about the whole store.

    The document of the API (web.openapi) says all of this, and: the `headers` that a request may have, as a Struct;
    the `media_types` of the answer if they are not those that follow from its type; an `example` of it and the
    `request_examples`, by name, that show more than what is made up from the types; the `name` of the operation and its
    `description` where there is no handler that gives them. Without `documented` it says nothing.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler | None
    path_parameters: type[msgspec.Struct] = NoParameters
    query: type[msgspec.Struct] = NoParameters
    body: type[msgspec.Struct] | None = None
    answer: Any
    live: bool = False
    statuses: tuple[HTTPStatus, ...] = (HTTPStatus.OK,)
    errors: tuple[type[LoopledgerError], ...] = COMMON_ERRORS
    scope: Scope
    per_merchant: bool = False
    headers: type[msgspec.Struct] = NoParameters
    media_types: tuple[str, ...] = ()
    example: Any = None
    request_examples: Mapping[str, Any] = {}
    name: str | None = None
    description: str | None = None
    documented: bool = True
    cache_control: CacheControl = "no-store"
    whole: WholeHandler | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer with more than its `body`: another `status` than the usual one of its route, `headers` of its own."""

    body: object
    status: HTTPStatus | None = None
    headers: Mapping[str, str] = {}


def request_handler(
    route: Route, handler: Handler, context: Context, *, is_open: bool
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Make what aiohttp calls for a route: it sees whether the caller may ask, reads the parameters, and
    writes the answer. `is_open`: everybody may.
    """  # noqa: D205 - one sentence
    read_path = ParameterReader(route.path_parameters, context.limits).read
    read_query = ParameterReader(route.query, context.limits).read
    body_type = route.body
    offered = _offered(route)
    waits = "at_least" in route.query.__struct_fields__

    async def handle(request: web.Request) -> web.StreamResponse:
        access = request[ACCESS]
        if not is_open:
            require(access, route.scope, whole_store=not route.per_merchant)
            log_secrets_read(access, route.scope, request)
        path, given = read_path(request.match_info), read_query(request.query)
        if waits and (at_least := at_least_of(request.headers)) is not None:
            at_least = max(at_least, getattr(given, "at_least", 0))
            given = msgspec.structs.replace(given, at_least=at_least)
        if body_type is not None:
            given = await read_body(request, body_type, context.limits)
        elif route.method != "GET" and request.body_exists:
            raise BadBodyError(
                problem="there must be none; parameters stand in the path and the query"
            )
        media = chosen_media(request, offered) if offered else JSON
        try:
            if route.whole is not None and media != JSON:
                check_no_page(request, media)
                whole = await route.whole(context, access, path, given)
                writer = ListWriter(request, media, {hdrs.CACHE_CONTROL: route.cache_control})
                return await writer.write(context.whole_lists, whole, context.limits)
            answer = await handler(context, access, path, given)
        except NotFoldedError as error:
            if access.visibility.merchants is None:
                raise
            raise HiddenHeadError(
                projection=error.facts["projection"], position=error.facts["position"]
            ) from None
        return await _respond(request, route, answer)

    return handle


def _offered(route: Route) -> tuple[str, ...]:
    """What a request may choose of: lists are there in several forms. Nothing where it is not asked for its choice."""
    if route.whole is not None:
        return LIST_MEDIA
    fixed = route.live or route.answer is bytes or route.media_types or route.scope in OF_THE_MOMENT
    return () if fixed else (JSON,)


async def _respond(request: web.Request, route: Route, answer: object) -> web.StreamResponse:
    """Make the response of an answer, and write it if it is streamed."""
    status = route.statuses[0]
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: route.cache_control}
    if isinstance(answer, Answer):
        status, headers = answer.status or status, {**headers, **answer.headers}
        answer = answer.body
    version = ""
    response: web.Response
    match answer:
        case EncodedJson(body, version):
            response = web.Response(body=body, status=status, content_type="application/json")
        case EncodedPage(body, following, version):
            response = web.Response(body=body, status=status, content_type="application/json")
            add_vary(response, hdrs.ACCEPT)
            if following is not None:
                response.headers["Link"] = next_link(request, following)
        case LiveAnswer():
            return await answer.write(request, headers)
        case bytes():
            response = bytes_response(answer)
        # A protocol: to see whether something fits it takes long.
        case Negotiated():
            body, content_type = answer.encode(request.headers.get("Accept", ""))
            response = web.Response(body=body, headers={"Content-Type": content_type})
            add_vary(response, hdrs.ACCEPT)
        case _:
            response = json_response(answer, status)
    response.headers.update(headers)
    if route.method == hdrs.METH_GET and response.status == HTTPStatus.OK:
        return await represent(
            request, response, version if route.scope not in OF_THE_MOMENT else None
        )
    return response


def next_link(request: web.Request, cursor: str) -> str:
    """The value of a Link header (RFC 8288) that leads to the next page: the same request with another cursor."""
    return f'<{request.rel_url.update_query(cursor=cursor)}>; rel="next"'


def json_response(answer: object, status: HTTPStatus) -> web.Response:
    """Make a response of JSON; decimals are written as text, so that no digit is lost."""
    return web.Response(
        body=msgspec.json.encode(answer) + b"\n", status=status, content_type="application/json"
    )


def bytes_response(body: bytes) -> web.Response:
    """Make a response of bytes that no browser takes for a page."""
    return web.Response(
        body=body,
        content_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff"},
    )
