"""Pages of a list, and the cursors that lead from one to the next."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from eventstore.errors import CursorError

Item = TypeVar("Item")
Cursor = TypeVar("Cursor")

# Bytes of the digest that ties a cursor to its list, filters and sort.
DIGEST_BYTES = 6

# A bigint of Postgres.
LEAST_BIGINT, LARGEST_BIGINT = -(2**63), 2**63 - 1

# How Postgres writes values; times in a session that is set to UTC.
_WRITTEN = {
    "bigint": re.compile(r"-?[0-9]{1,19}"),
    "numeric": re.compile(r"-Infinity|NaN|-?[0-9]{1,1000}(\.[0-9]{1,1000})?"),
    "timestamp with time zone": re.compile(
        r"-infinity|[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}(\.[0-9]{1,6})?\+00"
    ),
}


class Page(msgspec.Struct, Generic[Item, Cursor], frozen=True):
    """One page of a list: its `items`. `next` is the cursor of the next page, or null on the last."""

    items: list[Item]
    next: Cursor | None


class JsonPage(msgspec.Struct, frozen=True):
    """One page whose items are JSON already. `next` is the cursor of the next page, or None on the last.

    `version` is what they were made from, if the listing says so: of states, the generation.
    """

    items: list[str]
    next: str | None
    version: str = ""

    @property
    def body(self) -> bytes:
        """The same as JSON."""
        following = "null" if self.next is None else f'"{self.next}"'
        return f'{{"items":[{",".join(self.items)}],"next":{following}}}\n'.encode()


def page_of(
    found: list[Item], limit: int, cursor_after: Callable[[Item], Cursor]
) -> Page[Item, Cursor]:
    """Make a page of `limit` items out of what was found, when one more than `limit` was looked for.

    `cursor_after` gives the cursor of what follows an item.
    """
    if len(found) <= limit:
        return Page(found, None)
    return Page(found[:limit], cursor_after(found[limit - 1]))


def encode_cursor(question: object, key: Sequence[str]) -> str:
    """Make an opaque cursor, fit for a URL, of where a page ended.

    `question` is what was asked, all but the page; `key` is what the last item is sorted by, as Postgres writes it.
    """
    encoded = msgspec.msgpack.encode([_digest(question), *key])
    return base64.urlsafe_b64encode(encoded).decode().rstrip("=")


def decode_cursor(question: object, cursor: str, sql_types: Sequence[str]) -> list[str]:
    """Read the key back, which has these types. Raises CursorError for what was not given out for this question."""
    try:
        encoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        digest, *key = msgspec.msgpack.decode(encoded, type=list[str])
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise CursorError(parameter="cursor") from None
    if (
        digest != _digest(question)
        or len(key) != len(sql_types)
        or not all(map(_is_value, key, sql_types))
        or encode_cursor(question, key) != cursor
    ):
        raise CursorError(parameter="cursor")
    return key


def _digest(question: object) -> str:
    encoded = msgspec.json.encode(question, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest()


def _is_value(text: str, sql_type: str) -> bool:
    """Whether Postgres writes a value of this type so."""
    if sql_type == "text":
        return "\0" not in text and text.isprintable()
    if sql_type not in _WRITTEN or _WRITTEN[sql_type].fullmatch(text) is None:
        return False
    if sql_type == "bigint":
        return LEAST_BIGINT <= int(text) <= LARGEST_BIGINT
    try:
        return sql_type == "numeric" or text == "-infinity" or bool(datetime.fromisoformat(text))
    except ValueError:
        return False
