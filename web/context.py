"""What every handler works with, and how it answers."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from eventstore.database import Database
from eventstore.limits import Limits
from eventstore.log import Log
from eventstore.projection import Projection
from eventstore.registry import Registry
from providers.provider import Provider


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a running Loopledger."""

    limits: Limits
    database: Database
    log: Log
    registry: Registry
    providers: Mapping[str, Provider]
    projections: Mapping[str, Projection[Any]]


CONTEXT = web.AppKey("context", Context)


class Page(msgspec.Struct, frozen=True):
    """One page of a list. `next` is the cursor of the next page, or null on the last."""

    items: list[Any]
    next: str | int | None


def json_answer(value: object, status: int = 200) -> web.Response:
    """Answer with JSON; decimals are written as text, so that no digit is lost."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
