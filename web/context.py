"""What every handler works with, and how it answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from eventstore.fold.projection import Projection
from eventstore.fold.registry import Registry
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.reader import Reader
from eventstore.postgres.database import Database
from eventstore.rejections import Rejections
from providers.provider import Provider
from verification.verifier import Verifier


class Endpoint(NamedTuple):
    """Where the deliveries of one provider come in."""

    provider: Provider
    verifier: Verifier


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a running Loopledger. `api_for_all`: questions are answered to other machines too."""

    api_for_all: bool
    limits: Limits
    database: Database
    appender: Appender
    reader: Reader
    registry: Registry
    rejections: Rejections
    endpoints: Mapping[str, Endpoint]
    providers: Mapping[str, Provider]
    projections: Mapping[str, Projection[Any]]


CONTEXT = web.AppKey("context", Context)


class Page(msgspec.Struct, frozen=True):
    """One page of a list. `next` is the cursor of the next page, or null on the last."""

    items: list[Any]
    next: str | int | None


def json_response(value: object, status: int = 200) -> web.Response:
    """Answer with JSON; decimals are written as text, so that no digit is lost."""
    return web.Response(
        body=msgspec.json.encode(value) + b"\n", status=status, content_type="application/json"
    )


def bytes_response(body: bytes) -> web.Response:
    """Answer with bytes that no browser shall take for a page."""
    return web.Response(
        body=body,
        content_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff"},
    )


def header_pairs(block: bytes, errors: str = "backslashreplace") -> list[tuple[str, str]]:
    """Read "Name: value" lines back; `errors` says what becomes of bytes that are not UTF-8."""
    lines = block.decode("utf-8", errors).split("\r\n")
    return [
        (name, value) for name, colon, value in (line.partition(": ") for line in lines) if colon
    ]
