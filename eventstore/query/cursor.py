"""Pages of a list, and the cursors that lead from one to the next."""

import base64
import binascii
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from eventstore.errors import CursorError

Item = TypeVar("Item")
Cursor = TypeVar("Cursor")


class Page(msgspec.Struct, Generic[Item, Cursor], frozen=True):
    """One page of a list: its `items`. `next` is the cursor of the next page, or null on the last."""

    items: list[Item]
    next: Cursor | None


def page_of(
    found: list[Item], limit: int, cursor_after: Callable[[Item], Cursor]
) -> Page[Item, Cursor]:
    """Make a page of `limit` items out of what was found, when one more than `limit` was looked for.

    `cursor_after` gives the cursor of what follows an item.
    """
    if len(found) <= limit:
        return Page(found, None)
    return Page(found[:limit], cursor_after(found[limit - 1]))


def encode_cursor(key: str) -> str:
    """Make an opaque cursor, fit for a URL, out of the key of a page's last item."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str:
    """Read the key back; it is empty for the first page. Raises CursorError."""
    text = cursor or ""
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise CursorError(parameter="cursor") from None
    if "\0" in key:
        # Postgres holds no such text.
        raise CursorError(parameter="cursor")
    return key
