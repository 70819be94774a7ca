"""The id of a request: in its response, and in every line of the log that it causes."""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from aiohttp import web
from multidict import istr
from structlog.contextvars import bind_contextvars, reset_contextvars

REQUEST_ID_HEADER = istr("X-Request-Id")

# What a client or a proxy may call a request: nothing that could be taken for anything else in a log.
SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")

_REQUEST_ID = web.RequestKey("request_id", str)


def request_id_from(headers: Mapping[str, str]) -> str:
    """The id that a request brings along, if it is one; else a new one."""
    given = headers.get(REQUEST_ID_HEADER)
    return given if given is not None and SANE.fullmatch(given) else secrets.token_hex(8)


def request_id_of(request: web.BaseRequest) -> str:
    """The id of a request, the same each time."""
    if (known := find_request_id(request)) is not None:
        return known
    made = request[_REQUEST_ID] = request_id_from(request.headers)
    return made


def find_request_id(request: web.BaseRequest) -> str | None:
    """The id of a request, if anybody has asked for it: a delivery that is put on record needs none."""
    return request.get(_REQUEST_ID)


@contextmanager
def logged_with_id(request: web.BaseRequest) -> Iterator[str]:
    """Have every line of the log that is written meanwhile tell the id of the request."""
    request_id = request_id_of(request)
    # aiohttp serves all requests of a connection in one task.
    tokens = bind_contextvars(request_id=request_id)
    try:
        yield request_id
    finally:
        reset_contextvars(**tokens)
