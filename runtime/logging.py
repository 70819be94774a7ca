"""What the log looks like: for people on a terminal, JSON for machines.

Every event has a stable name in snake case, a `message` for people, and its facts as fields. docs/operations.md lists
all of them; a test holds that table to the code. Lines of one kind are limited, and no line holds a configured secret
or a key.
"""

import logging
import sys
import traceback
from collections.abc import Iterable
from typing import Any, TextIO

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from eventstore.errors import LoopledgerError
from eventstore.keys import hide_keys
from eventstore.postgres.failures import describe
from runtime.log_limits import LineLimit
from runtime.settings import Settings
from verification.redaction import Redactor

# What no line of the log may hold.
_SECRETS: set[bytes] = set()
_REDACTORS: list[Redactor] = []

# Of each error in a chain, so many calls, the innermost; and so many errors of a group. More hides the cause.
FRAMES = 8
GROUP_WIDTH = 2

_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def configure_logging(settings: Settings) -> None:
    """Log to standard error: for people on a terminal, as JSON otherwise."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_short_traceback
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    renderers: list[Any] = [
        *([_message_first, renderer, _redacted] if console else [_redacted, renderer])
    ]
    limit = LineLimit()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if level == logging.DEBUG else [_foreseen_in_a_line]),
        # Never the local variables of a traceback: they hold bodies, and so codes and names.
        *([] if console else [structlog.processors.ExceptionRenderer(_structured)]),
    ]
    structlog.configure(
        processors=[limit.process, *shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries log takes the same form, or whoever reads the log by machine stumbles.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    handler.addFilter(limit.filter)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    # What is no HTTP is quoted there, secrets and all, as often as anybody likes.
    logging.getLogger("aiohttp.server").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
    )


def redact_from_log(secrets: Iterable[bytes]) -> None:
    """Keep these secrets out of the log from now on, besides those named before."""
    _SECRETS.update(secrets)
    _REDACTORS[:] = [Redactor(_SECRETS)]


def _redacted(_: object, __: str, event: Any) -> Any:  # noqa: ANN401 - an event, or what it was rendered to
    return _without_secrets(event)


def _without_secrets(value: Any) -> Any:  # noqa: ANN401 - whatever a line of the log holds
    if isinstance(value, str):
        return _redact(value)
    if isinstance(value, dict):
        return {key: _without_secrets(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(each) for each in value]
    text = str(value)
    redacted = _redact(text)
    return value if redacted == text else redacted


def _redact(text: str) -> str:
    text = hide_keys(text)
    return _REDACTORS[0].text(text) if _REDACTORS else text


def _foreseen_in_a_line(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """An error of ours says what is wrong; where it came from is told at the level debug only."""
    error = event.get("exc_info")
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, LoopledgerError):
        del event["exc_info"]
        event.setdefault("error", describe(error))
    return event


def _structured(exc_info: "structlog.typing.ExcInfo") -> list[dict[str, Any]]:
    """An error with those that caused it, as JSON; short as on the console."""
    return _shorten(_TRACEBACK(exc_info))


def _shorten(chain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        one
        | {
            "frames": one["frames"][-FRAMES:],
            "exceptions": [_shorten(each) for each in one["exceptions"][:GROUP_WIDTH]],
        }
        for one in chain
    ]


def _short_traceback(file: TextIO, error: "structlog.typing.ExcInfo") -> None:
    found = traceback.TracebackException(*error, limit=-FRAMES, max_group_width=GROUP_WIDTH)
    file.write("".join(found.format()).rstrip())


def _message_first(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """For the console: the message in the place of the event's name, and that in brackets beside it."""
    if "message" in event:
        event["logger"], event["event"] = event["event"], event.pop("message")
    return event
