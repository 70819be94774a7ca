"""How many lines of one kind the log takes: whoever sends requests causes lines, and could fill the disk with them."""

import logging
import sys
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from types import TracebackType

# Lines of one kind in a minute: tracebacks, which are long, and others.
MOST_TRACEBACKS = 1
MOST_LINES = 30
SECONDS = 60.0

# Every one of these is written: only who has a key causes them, and they say who saw what.
UNLIMITED = frozenset({"secrets_read", "key_created", "key_revoked"})

# Kinds that are remembered; there are about a hundred events, and a few places where each may fail.
MOST_KINDS = 1_000


class LineLimit:
    """Counts lines by their kind, over a minute that begins with the first one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When the minute began, how many lines were written in it, and how many were left out.
        self._minutes: dict[Hashable, tuple[float, int, int]] = {}

    def admit(self, kind: Hashable, most: int) -> int | None:
        """How many lines of this kind were left out in the minute before; None if this one is left out, too."""
        now = self._clock()
        began, written, left_out = self._minutes.pop(kind, (now, 0, 0))
        admitted = 0
        if now - began >= SECONDS:
            began, written, admitted, left_out = now, 0, left_out, 0
        if len(self._minutes) >= MOST_KINDS:
            del self._minutes[next(iter(self._minutes))]
        if written >= most:
            self._minutes[kind] = (began, written, left_out + 1)
            return None
        self._minutes[kind] = (began, written + 1, left_out)
        return admitted

    def process(
        self, _: object, level: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Drop an event of which there are too many; else tell in it how many were left out. For structlog."""
        if level == "debug" or event.get("event") in UNLIMITED:
            # Only who asks for the former gets them.
            return event
        error = _error_of(event.get("exc_info"))
        kind = (event.get("event"), level, *_place_of(error))
        left_out = self.admit(kind, MOST_LINES if error is None else MOST_TRACEBACKS)
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """The same for what libraries log."""
        error = _error_of(record.exc_info)
        kind = (record.name, record.pathname, record.lineno, *_place_of(error))
        left_out = self.admit(kind, MOST_LINES if error is None else MOST_TRACEBACKS)
        if left_out:
            record.left_out = left_out
        return left_out is not None


def _error_of(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _place_of(error: BaseException | None) -> tuple[object, ...]:
    """What error it is, and where it was raised."""
    if error is None:
        return ()
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return (type(error),)
    return (type(error), place.tb_frame.f_code.co_filename, place.tb_lineno)
