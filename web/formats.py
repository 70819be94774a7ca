"""Answers that can be written in several formats."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Negotiated(Protocol):
    """An answer that is written in the format that a request asks for."""

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The body in the format that fits an Accept header, and its content type."""
