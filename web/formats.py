"""Answers that are written in other ways than as JSON made of a Struct."""

from typing import Protocol, runtime_checkable

import msgspec


@runtime_checkable
class Negotiated(Protocol):
    """An answer that is written in the format that a request asks for."""

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The body in the format that fits an Accept header, and its content type."""


class StaticFile(msgspec.Struct, frozen=True):
    """An answer that is always the same bytes."""

    content_type: str
    body: bytes

    def encode(self, _accept: str) -> tuple[bytes, str]:
        """The bytes, whatever is asked for."""
        content_type = self.content_type
        if content_type.startswith("text/"):
            content_type = f"{content_type}; charset=utf-8"
        return self.body, content_type


class EncodedJson(msgspec.Struct, frozen=True):
    """An answer that is JSON already, made from this `version` of something: its generation."""

    body: bytes
    version: str = ""


class EncodedPage(msgspec.Struct, frozen=True):
    """A page of a list that is JSON already, made from this `version` of something.

    `next` is the cursor of the next page, or None on the last.
    """

    body: bytes
    next: str | None
    version: str = ""
