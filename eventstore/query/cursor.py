"""Pages of a list, and the cursors that lead from one to the next."""

import base64
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from eventstore.errors import CursorError
from eventstore.log.streams import is_stream_name

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


def encode_cursor(list_name: str, stream: str) -> str:
    """Make an opaque cursor, fit for a URL, out of a list's name and the stream of its page's last item."""
    return base64.urlsafe_b64encode(f"{list_name} {stream}".encode()).decode().rstrip("=")


def decode_cursor(list_name: str, cursor: str | None) -> str:
    """Read the stream back; it is empty for the first page. Raises CursorError for what this list did not give out."""
    if cursor is None:
        return ""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        raise CursorError(parameter="cursor") from None
    stream = text.removeprefix(f"{list_name} ")
    if not is_stream_name(stream) or encode_cursor(list_name, stream) != cursor:
        raise CursorError(parameter="cursor")
    return stream
