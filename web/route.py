"""A route as a value: what it takes, what it answers, what can go wrong, and the handler.

The table of all routes (make_routes in web.app) describes the API completely: documentation can be made from it alone.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from aiohttp import web

from eventstore.errors import LoopledgerError, UnavailableError
from web.context import Context
from web.errors import BadParameterError, MalformedHeaderError, NotLocalError
from web.formats import Negotiated
from web.parameters import NoParameters, ParameterReader

# What a caller has to be allowed to do: deliver webhooks, read metrics, read states and the log, get the exact bytes of
# requests, or make changes. "health" is open to everybody.
Scope: TypeAlias = Literal["deliver", "health", "metrics", "read", "raw", "operate"]

# The errors that any route of the JSON API may answer with.
COMMON_ERRORS = (BadParameterError, MalformedHeaderError, NotLocalError, UnavailableError)

Handler: TypeAlias = Callable[[Context, Any, Any], Awaitable[Any]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route. Its handler is called with the context, the parameters of the path and those of the query.

    `path_parameters` and `query` are the Structs that these come in. `answer` is the type of the response's body: a
    Struct, written as JSON, bytes, or Negotiated. `statuses` are the statuses that an answer can have, the usual one
    first; `errors` are those that can take its place (see web.problems). A route without a handler is served by
    web.ingest.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler | None
    path_parameters: type[msgspec.Struct] = NoParameters
    query: type[msgspec.Struct] = NoParameters
    answer: Any
    statuses: tuple[HTTPStatus, ...] = (HTTPStatus.OK,)
    errors: tuple[type[LoopledgerError], ...] = COMMON_ERRORS
    scope: Scope


class WithStatus(NamedTuple):
    """An answer with another status than the usual one of its route."""

    status: HTTPStatus
    answer: msgspec.Struct


def request_handler(
    route: Route, handler: Handler, context: Context
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make what aiohttp calls for a route: it reads the parameters and writes the answer."""
    read_path = ParameterReader(route.path_parameters, context.limits).read
    read_query = ParameterReader(route.query, context.limits).read

    async def handle(request: web.Request) -> web.Response:
        answer = await handler(context, read_path(request.match_info), read_query(request.query))
        status = route.statuses[0]
        if isinstance(answer, WithStatus):
            status, answer = answer
        if isinstance(answer, Negotiated):
            body, content_type = answer.encode(request.headers.get("Accept", ""))
            return web.Response(body=body, headers={"Content-Type": content_type})
        return (
            bytes_response(answer) if isinstance(answer, bytes) else json_response(answer, status)
        )

    return handle


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
