"""Errors as `application/problem+json` (RFC 9457): one table from our errors to HTTP, used in one place."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
import structlog
from aiohttp import web

from eventstore.errors import (
    AmbiguousError,
    CursorError,
    LoopledgerError,
    NotFoldedError,
    NotFoundError,
    NothingRetiredError,
    NotReadyError,
    NotSwitchedError,
    QueueFullError,
    RebuildingError,
    RefusedError,
    UnavailableError,
    printable,
)
from eventstore.postgres.failures import describe, is_outage
from providers.provider import UnidentifiedError, UnparsableError
from verification.keyring import UnverifiedError

logger = structlog.get_logger()


class BadParameterError(LoopledgerError):
    """The parameter {parameter} {problem}."""


class TooLargeError(LoopledgerError):
    """The body is larger than {limit} bytes, the most that a delivery may have."""


class EncodedError(LoopledgerError):
    """Content-Encoding {encoding} is not accepted: send the body as it is."""


class TooSlowError(LoopledgerError):
    """The body did not arrive within {seconds:g} s."""


class HeadTooSlowError(LoopledgerError):
    """The head of the request was not complete within {seconds:g} s."""


class TooManyConnectionsError(LoopledgerError):
    """All {limit} connections are in use; try again later."""


class CutShortError(LoopledgerError):
    """The body ended before it was complete: {problem}."""


class ExpectationError(LoopledgerError):
    """Expect: {expectation} cannot be met; 100-continue can."""


class NotLocalError(LoopledgerError):
    """{path} is open to this machine only, unless the server is started with --insecure."""


class NotRetriableError(LoopledgerError):
    """Rejection {id} cannot be tried again: {problem}."""


class TooManyError(LoopledgerError):
    """Too many requests from this address; try again in {seconds} s."""


class _Answer(NamedTuple):
    status: int
    slug: str
    title: str
    retry_after: int | None = None
    # Whether the rest of the request is not worth waiting for.
    close: bool = False

    @property
    def cause(self) -> str:
        """The word for it in the rejections."""
        return self.slug.replace("-", "_").upper()


ANSWERS: Mapping[type[LoopledgerError], _Answer] = {
    UnparsableError: _Answer(400, "unparsable", "The body is not a JSON object"),
    UnidentifiedError: _Answer(400, "unidentified", "The delivery cannot be identified"),
    BadParameterError: _Answer(400, "bad-parameter", "A parameter is wrong"),
    CursorError: _Answer(400, "bad-parameter", "A parameter is wrong"),
    NotLocalError: _Answer(403, "not-local", "For this machine only"),
    NotFoundError: _Answer(404, "not-found", "Not found"),
    UnverifiedError: _Answer(401, "unverified", "The delivery is not verified"),
    CutShortError: _Answer(400, "cut-short", "The body is not complete", close=True),
    TooSlowError: _Answer(408, "too-slow", "The body arrived too slowly", close=True),
    HeadTooSlowError: _Answer(408, "head-too-slow", "The head arrived too slowly", close=True),
    AmbiguousError: _Answer(409, "ambiguous", "The id is ambiguous"),
    NotRetriableError: _Answer(409, "not-retriable", "It cannot be tried again"),
    RebuildingError: _Answer(409, "rebuilding", "A rebuild is under way"),
    NotSwitchedError: _Answer(409, "not-switched", "The generation was not made live"),
    NotReadyError: _Answer(409, "not-ready", "No rebuild is ready"),
    NothingRetiredError: _Answer(409, "nothing-retired", "Nothing to roll back to"),
    TooLargeError: _Answer(413, "too-large", "The body is too large", close=True),
    EncodedError: _Answer(415, "encoded", "The body is encoded", close=True),
    ExpectationError: _Answer(417, "expectation", "The expectation cannot be met", close=True),
    RefusedError: _Answer(422, "refused", "The delivery cannot be put on record"),
    TooManyError: _Answer(429, "too-many", "Too many requests", 1, close=True),
    NotFoldedError: _Answer(503, "not-folded", "Not folded yet", 1),
    QueueFullError: _Answer(503, "queue-full", "Too many deliveries are waiting", 1),
    TooManyConnectionsError: _Answer(
        503, "too-many-connections", "Too many connections", 1, close=True
    ),
    UnavailableError: _Answer(503, "unavailable", "The log cannot be written to now", 2),
}


def problem(
    status: int,
    slug: str,
    title: str,
    detail: str,
    *,
    retry_after: int | None = None,
    facts: Mapping[str, object] | None = None,
) -> web.Response:
    """Answer with a problem. `facts` are members of their own, for programs."""
    body: dict[str, object] = {
        "type": f"urn:loopledger:problem:{slug}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    answer = web.Response(
        body=msgspec.json.encode({**_readable(facts or {}), **_readable(body)}) + b"\n",
        status=status,
        content_type="application/problem+json",
    )
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def _readable(members: Mapping[str, object]) -> dict[str, object]:
    """Escape what JSON cannot hold: header bytes that are not UTF-8 come as lone surrogates."""
    return {
        name: printable(value) if isinstance(value, str) else value
        for name, value in members.items()
    }


def answer_for(error: LoopledgerError) -> _Answer | None:
    """Look up how an error is answered."""
    return next((ANSWERS[type_] for type_ in type(error).__mro__ if type_ in ANSWERS), None)


def problem_of(error: Exception, method: str) -> web.Response:
    """Translate any error."""
    if isinstance(error, LoopledgerError) and (answer := answer_for(error)):
        response = problem(
            answer.status,
            answer.slug,
            answer.title,
            str(error),
            retry_after=answer.retry_after,
            facts=error.facts,
        )
        if answer.close:
            response.force_close()
        if answer.status == web.HTTPUnauthorized.status_code:
            # RFC 9110, 11.6.1: a 401 names a way to authenticate.
            response.headers["WWW-Authenticate"] = 'Loopledger realm="webhooks"'
        return response
    if is_outage(error):
        logger.warning(
            "postgres_unavailable",
            message="A request failed because Postgres is away.",
            error=describe(error),
        )
        return problem_of(UnavailableError(problem="Postgres does not answer"), method)
    logger.error(
        "request_failed",
        message="A request failed because of an unexpected error.",
        method=method,
        exc_info=error,
    )
    return internal_error()


def internal_error() -> web.Response:
    """Answer for what should not happen: our own fault, so never a 4xx."""
    return problem(
        500, "internal", "Internal error", "Something went wrong here; the log says what."
    )


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every error into a problem."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        title = error.reason
        # Not the path as it was sent: it may end in a secret.
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else request.path
        detail = f"{request.method} {path}: {title}."
        answer = problem(error.status, f"http-{error.status}", title, detail)
        if allow := error.headers.get("Allow"):
            answer.headers["Allow"] = allow
        return answer
    except Exception as error:  # noqa: BLE001 - every error becomes an answer
        return problem_of(error, request.method)
