"""Errors as `application/problem+json` (RFC 9457): one table from our errors to HTTP, used in one place."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
import structlog
from aiohttp import web

from eventstore.errors import (
    AmbiguousError,
    CursorError,
    KeyNameError,
    LoopledgerError,
    NotFoldedError,
    NotFoundError,
    NothingRetiredError,
    NotReadyError,
    NotSetUpError,
    NotSwitchedError,
    QueueFullError,
    RebuildingError,
    RefusedError,
    TooManyKeysError,
    TooManyListsError,
    UnavailableError,
    printable,
)
from eventstore.keys import hide_keys
from eventstore.postgres.failures import describe, is_outage
from providers.provider import UnidentifiedError, UnparsableError
from verification.keyring import UnverifiedError
from web.auth import challenge_of
from web.errors import (
    BadBodyError,
    BadParameterError,
    CrowdedError,
    CutShortError,
    EncodedError,
    ExpectationError,
    ForeignError,
    HeadTooLargeError,
    HeadTooSlowError,
    InsufficientScopeError,
    InvalidKeyError,
    KeyTooBusyError,
    MalformedError,
    MalformedHeaderError,
    MissingKeyError,
    NotAcceptableError,
    NotReportedError,
    NotRetriableError,
    TooLargeError,
    TooManyConnectionsError,
    TooManyError,
    TooManyFromAddressError,
    TooManyKeyStreamsError,
    TooManyMissesError,
    TooManyReadsError,
    TooManyStreamsError,
    TooSlowError,
)
from web.ingest.delivery import WEBHOOKS
from web.request_ids import REQUEST_ID_HEADER, logged_with_id, request_id_of

logger = structlog.get_logger()

RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ProblemType(NamedTuple):
    """How an error becomes a response. `slug` is the end of the problem's `type`, `retry_after` is in seconds.

    `close`: the connection is closed, since the rest of the request is not worth waiting for.
    """

    status: int
    slug: str
    title: str
    retry_after: int | None = None
    close: bool = False

    @property
    def cause(self) -> str:
        """The word for it in the list of rejections."""
        return self.slug.replace("-", "_").upper()


PROBLEM_TYPES: Mapping[type[LoopledgerError], ProblemType] = {
    UnparsableError: ProblemType(400, "unparsable", "The body is not a JSON object"),
    UnidentifiedError: ProblemType(400, "unidentified", "The delivery cannot be identified"),
    BadParameterError: ProblemType(400, "bad-parameter", "A parameter is wrong"),
    BadBodyError: ProblemType(400, "bad-body", "The body is wrong"),
    CursorError: ProblemType(400, "bad-parameter", "A parameter is wrong"),
    MalformedHeaderError: ProblemType(400, "malformed-header", "A header cannot be read"),
    MalformedError: ProblemType(400, "malformed", "The request is malformed", close=True),
    ForeignError: ProblemType(403, "foreign", "Not from this machine"),
    MissingKeyError: ProblemType(401, "key-needed", "A key is needed"),
    InvalidKeyError: ProblemType(401, "invalid-key", "The key is not valid"),
    InsufficientScopeError: ProblemType(403, "insufficient-scope", "Not for this key"),
    NotFoundError: ProblemType(404, "not-found", "Not found"),
    NotAcceptableError: ProblemType(406, "not-acceptable", "Not to be had in that form"),
    UnverifiedError: ProblemType(401, "unverified", "The delivery is not verified"),
    CutShortError: ProblemType(400, "cut-short", "The body is not complete", close=True),
    TooSlowError: ProblemType(408, "too-slow", "The body arrived too slowly", close=True),
    HeadTooSlowError: ProblemType(408, "head-too-slow", "The head arrived too slowly", close=True),
    AmbiguousError: ProblemType(409, "ambiguous", "The id is ambiguous"),
    NotRetriableError: ProblemType(409, "not-retriable", "It cannot be tried again"),
    RebuildingError: ProblemType(409, "rebuilding", "A rebuild is under way"),
    NotSwitchedError: ProblemType(409, "not-switched", "The generation was not made live"),
    NotReadyError: ProblemType(409, "not-ready", "No rebuild is ready"),
    NothingRetiredError: ProblemType(409, "nothing-retired", "Nothing to roll back to"),
    TooLargeError: ProblemType(413, "too-large", "The body is too large", close=True),
    EncodedError: ProblemType(415, "encoded", "The body is encoded", close=True),
    ExpectationError: ProblemType(417, "expectation", "The expectation cannot be met", close=True),
    HeadTooLargeError: ProblemType(431, "head-too-large", "The head is too large", close=True),
    RefusedError: ProblemType(422, "refused", "The delivery cannot be put on record"),
    KeyNameError: ProblemType(409, "name-taken", "The name is taken"),
    TooManyKeysError: ProblemType(409, "too-many-keys", "Too many keys"),
    KeyTooBusyError: ProblemType(429, "key-too-busy", "Too many requests", 1),
    TooManyError: ProblemType(429, "too-many", "Too many requests", 1, close=True),
    TooManyMissesError: ProblemType(429, "too-many-misses", "Too many searches found nothing", 1),
    TooManyKeyStreamsError: ProblemType(429, "too-many-key-streams", "Too many live streams", 5),
    TooManyStreamsError: ProblemType(503, "too-many-streams", "Too many live streams", 5),
    TooManyListsError: ProblemType(503, "too-many-lists", "Too many whole lists", 5),
    NotSetUpError: ProblemType(503, "not-set-up", "Not set up yet", 2),
    NotFoldedError: ProblemType(503, "not-folded", "Not folded yet", 1),
    QueueFullError: ProblemType(503, "queue-full", "Too many deliveries are waiting", 1),
    TooManyConnectionsError: ProblemType(
        503, "too-many-connections", "Too many connections", 1, close=True
    ),
    NotReportedError: ProblemType(503, "not-reported", "The processes do not report", 1),
    TooManyFromAddressError: ProblemType(
        503, "too-many-from-address", "Too many connections from one address", 1, close=True
    ),
    TooManyReadsError: ProblemType(503, "too-many-reads", "Too many requests to the API", 1),
    CrowdedError: ProblemType(
        503, "crowded", "The server needs the room for others", 1, close=True
    ),
    UnavailableError: ProblemType(503, "unavailable", "The log cannot be written to now", 2),
}


INTERNAL = ProblemType(500, "internal", "Internal error")


def problem_type_of(error: LoopledgerError) -> ProblemType | None:
    """Look an error up in the table, by its class or the one it is derived from."""
    types = type(error).__mro__
    return next((PROBLEM_TYPES[type_] for type_ in types if type_ in PROBLEM_TYPES), None)


def outcome_of(error: Exception) -> str:
    """The word for what became of a delivery that failed, as metrics have it."""
    if isinstance(error, LoopledgerError) and (problem_type := problem_type_of(error)):
        return problem_type.cause.lower()
    return "unavailable" if is_outage(error) else "internal"


def problem_response(error: Exception, method: str, request_id: str) -> web.Response:
    """Make the response to a request that failed; what nobody foresaw is our own fault, so never a 4xx."""
    if isinstance(error, LoopledgerError) and (problem_type := problem_type_of(error)):
        response = _respond(problem_type, str(error), error.facts, request_id)
        if (challenge := challenge_of(error)) is not None:
            response.headers["WWW-Authenticate"] = challenge
        return response
    if is_outage(error):
        logger.warning(
            "postgres_unavailable",
            message="A request failed because Postgres is away.",
            error=describe(error),
            request_id=request_id,
        )
        away = UnavailableError(problem="Postgres does not answer")
        return problem_response(away, method, request_id)
    logger.error(
        "request_failed",
        message="A request failed because of an unexpected error.",
        method=method,
        request_id=request_id,
        exc_info=error,
    )
    detail = "Something went wrong here; the log says what, beside this request_id."
    return _respond(INTERNAL, detail, {}, request_id)


def _respond(
    problem_type: ProblemType, detail: str, facts: Mapping[str, object], request_id: str
) -> web.Response:
    """Make a response of a problem. `facts` are members of their own, for programs."""
    body: dict[str, object] = {
        **facts,
        "type": f"urn:loopledger:problem:{problem_type.slug}",
        "title": problem_type.title,
        "status": problem_type.status,
        "detail": detail,
        "request_id": request_id,
    }
    response = web.Response(
        body=msgspec.json.encode(_encodable(body)) + b"\n",
        status=problem_type.status,
        content_type="application/problem+json",
        headers={REQUEST_ID_HEADER: request_id},
    )
    if problem_type.retry_after is not None:
        response.headers["Retry-After"] = str(problem_type.retry_after)
    if problem_type.close:
        response.force_close()
    if problem_type.status == web.HTTPUnauthorized.status_code:
        # RFC 9110, 11.6.1: a 401 names a way to authenticate.
        response.headers["WWW-Authenticate"] = 'Loopledger realm="webhooks"'
    return response


def _encodable(members: Mapping[str, object]) -> dict[str, object]:
    """Escape what JSON cannot hold: header bytes that are not UTF-8 come as lone surrogates. No key is repeated."""
    return {
        name: hide_keys(printable(value)) if isinstance(value, str) else value
        for name, value in members.items()
    }


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every error into a problem, and tell the id of the request in the log."""
    with logged_with_id(request) as request_id:
        try:
            return await handler(request)
        except web.HTTPException as error:
            response = _http_problem(request, error, request_id)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            response = problem_response(error, request.method, request_id)
        resource = request.match_info.route.resource
        logger.info(
            "request_refused",
            message="A request was answered with a problem.",
            method=request.method,
            # Never the path as it was sent: who knows what it ends in.
            path=None if resource is None else resource.canonical,
            status=response.status,
        )
        return response


def _http_problem(request: web.Request, error: web.HTTPException, request_id: str) -> web.Response:
    """The response to what has no route."""
    # Not the path as it was sent: it may end in a secret.
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else request.path
    if resource is None and path.startswith(WEBHOOKS):
        path = f"{WEBHOOKS}..."
    problem_type = ProblemType(error.status, f"http-{error.status}", error.reason)
    allow = error.headers.get("Allow")
    detail = f"{request.method} {path}: {error.reason}."
    if allow is not None:
        detail = f"{path} does not take {request.method}; it takes {allow.replace(',', ', ')}."
    elif error.status == web.HTTPNotFound.status_code:
        detail = f"There is no path {path} here; GET / lists those that there are."
    response = _respond(problem_type, detail, {}, request_id)
    if allow is not None:
        response.headers["Allow"] = allow
    return response


def translated(handler: RequestHandler) -> RequestHandler:
    """Turn errors into problems that come before any middleware is called, as for an `Expect` that aiohttp refuses."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            expectation = request.headers.get("Expect", "100-continue")
            # A stranger at the webhooks is told only that he is one: the receiver checks there.
            if expectation.lower() != "100-continue" and not request.path.startswith(WEBHOOKS):
                raise ExpectationError(expectation=expectation)  # noqa: TRY301 - all become problems in one place
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            return problem_response(error, request.method, request_id_of(request))

    return handle
