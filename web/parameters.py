"""Query parameters, checked: a misspelt one is an error, not silence."""

import base64
import binascii
from collections.abc import Collection

from aiohttp import web

from web.context import CONTEXT
from web.problems import BadParameterError

# Positions are bigint; the largest number of so many digits is one, and no log gets there.
LARGEST = 10**18 - 1


def known_only(request: web.Request, known: Collection[str]) -> None:
    """Refuse a parameter that is not in `known`, or that is given twice."""
    for name in request.query:
        if name not in known:
            listed = ", ".join(sorted(known))
            raise BadParameterError(parameter=name, problem=f"is unknown here; known are {listed}")
        if len(request.query.getall(name)) > 1:
            raise BadParameterError(parameter=name, problem="is given more than once")


def whole_number(request: web.Request, name: str, default: int, *, least: int = 0) -> int:
    """Read a whole number, at least `least`."""
    return as_whole_number(request.query.get(name, str(default)), name, least=least)


def as_whole_number(text: str, name: str, *, least: int = 0) -> int:
    """Read `text` as a whole number, at least `least`."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST)) and int(text) >= least:
        return int(text)
    raise BadParameterError(parameter=name, problem=f"must be a whole number of at least {least}")


def page_length(request: web.Request) -> int:
    """Read `limit`: how many items a page has."""
    limits = request.app[CONTEXT].limits
    limit = whole_number(request, "limit", limits.page_items, least=1)
    if limit > limits.page_items_max:
        raise BadParameterError(
            parameter="limit", problem=f"must be at most {limits.page_items_max}"
        )
    return limit


def flag(request: web.Request, name: str) -> bool:
    """Read a boolean."""
    values = {"true": True, "false": False}
    if (text := request.query.get(name, "")) in values:
        return values[text]
    raise BadParameterError(parameter=name, problem="must be true or false")


def text_cursor(text: str) -> str:
    """Make a cursor out of the key of a page's last item."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def after_cursor(request: web.Request) -> str:
    """Read `cursor` back; empty for the first page."""
    cursor = request.query.get("cursor", "")
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadParameterError(
            parameter="cursor", problem="is not one that a list gave out"
        ) from None


def storable(text: str, name: str) -> str:
    """Let a text through if Postgres could hold it: else nothing can match it."""
    if "\x00" in text or text != text.encode("utf-8", "replace").decode():
        raise BadParameterError(parameter=name, problem="holds a character that no id has")
    return text
