"""Errors as `application/problem+json` (RFC 9457): one table from our errors to HTTP, used in one place."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
import structlog
from aiohttp import web

from eventstore.errors import (
    LoopledgerError,
    NotFoldedError,
    QueueFullError,
    RefusedError,
    UnavailableError,
    describe,
    is_outage,
)
from providers.provider import UnidentifiedError, UnparsableError

logger = structlog.get_logger()


class BadParameterError(LoopledgerError):
    """The parameter {parameter} {problem}."""


class NotFoundError(LoopledgerError):
    """There is no {what}."""


class AmbiguousError(LoopledgerError):
    """{what} is more than one thing: say which by ?merchant_id= (and ?provider=, if they share that too)."""


class TooLargeError(LoopledgerError):
    """The body is larger than {limit} bytes, the most that a delivery may have."""


class EncodedError(LoopledgerError):
    """Content-Encoding {encoding} is not accepted: send the body as it is."""


class TooSlowError(LoopledgerError):
    """The body did not arrive within {seconds:g} s."""


class _Answer(NamedTuple):
    status: int
    slug: str
    title: str
    retry_after: int | None = None


ANSWERS: Mapping[type[LoopledgerError], _Answer] = {
    UnparsableError: _Answer(400, "unparsable", "The body is not a JSON object"),
    UnidentifiedError: _Answer(400, "unidentified", "The delivery cannot be identified"),
    BadParameterError: _Answer(400, "bad-parameter", "A parameter is wrong"),
    NotFoundError: _Answer(404, "not-found", "Not found"),
    TooSlowError: _Answer(408, "too-slow", "The body came too slowly"),
    AmbiguousError: _Answer(409, "ambiguous", "The id is ambiguous"),
    TooLargeError: _Answer(413, "too-large", "The body is too large"),
    EncodedError: _Answer(415, "encoded", "The body is encoded"),
    RefusedError: _Answer(422, "refused", "The delivery cannot be put on record"),
    NotFoldedError: _Answer(503, "not-folded", "Not folded yet", 1),
    QueueFullError: _Answer(503, "queue-full", "Too many deliveries are waiting", 1),
    UnavailableError: _Answer(503, "unavailable", "The log cannot be written now", 2),
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
    body = {
        "type": f"urn:loopledger:problem:{slug}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    answer = web.Response(
        body=msgspec.json.encode({**(facts or {}), **body}),
        status=status,
        content_type="application/problem+json",
    )
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def problem_of(error: LoopledgerError) -> web.Response:
    """Translate one of our errors."""
    for type_ in type(error).__mro__:
        if answer := ANSWERS.get(type_):
            return problem(
                answer.status,
                answer.slug,
                answer.title,
                str(error),
                retry_after=answer.retry_after,
                facts=error.facts,
            )
    logger.error("an error that no answer is written for", exc_info=error)
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
    except LoopledgerError as error:
        return problem_of(error)
    except web.HTTPException as error:
        title = error.reason
        detail = f"{request.method} {request.path}: {title}."
        answer = problem(error.status, f"http-{error.status}", title, detail)
        if allow := error.headers.get("Allow"):
            answer.headers["Allow"] = allow
        return answer
    except Exception as error:
        if is_outage(error):
            logger.warning("no answer from Postgres", error=describe(error))
            return problem_of(UnavailableError(problem="Postgres does not answer"))
        logger.exception("a request failed", method=request.method, path=request.path)
        return internal_error()
