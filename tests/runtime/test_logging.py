"""The log: nobody can fill it, and no secret gets into it."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
import structlog

from eventstore.keys import make_key
from runtime import logging as product
from runtime.log_limits import MOST_KINDS, MOST_LINES, LineLimit
from runtime.logging import configure_logging, redact_from_log
from runtime.settings import Settings

SECRET = "hidden, of some length"  # noqa: S105 - made up


@contextmanager
def configured(log_format: Literal["json", "console"]) -> Iterator[None]:
    """The log as a server has it; pytest's own handlers are put away meanwhile."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    logging.getLogger().handlers.clear()
    try:
        configure_logging(Settings(log_format=log_format))
        yield
    finally:
        structlog.configure(**before)
        logging.getLogger().handlers[:] = handlers


def fail(text: str) -> None:
    raise ValueError(text)


def log_failure(text: str) -> None:
    try:
        fail(text)
    except ValueError as error:
        structlog.wrap_logger(structlog.PrintLogger(sys.stderr)).error(
            "request_failed", message="A request failed.", exc_info=error
        )


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_of_a_traceback_a_minute_takes_one(
    log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    with configured(log_format):
        for n in range(20):
            log_failure(f"text {n}")
            try:
                fail(f"text {n}")
            except ValueError:
                logging.getLogger("aiohttp.server").exception("Error handling request")
    printed = capsys.readouterr().err
    assert printed.count("Traceback") + printed.count("exc_type") == 2
    assert "text 1" not in printed


def test_the_line_after_a_minute_says_how_many_were_left_out() -> None:
    now = 0.0
    limit = LineLimit(lambda: now)
    event = {"event": "connection_refused"}
    written = 0
    for _ in range(100):
        try:
            limit.process(None, "warning", dict(event))
        except structlog.DropEvent:
            continue
        written += 1
    now = 60.0
    assert written == MOST_LINES
    assert limit.process(None, "warning", dict(event))["left_out"] == 100 - MOST_LINES
    assert "left_out" not in limit.process(None, "warning", dict(event))


def test_the_memory_of_kinds_is_bounded() -> None:
    limit = LineLimit()
    for n in range(3 * MOST_KINDS):
        limit.admit(n, 1)
    assert len(limit._minutes) == MOST_KINDS


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_holds_a_secret_in_any_form(
    log_format: Literal["json", "console"],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(product, "_SECRETS", set())
    monkeypatch.setattr(product, "_REDACTORS", [])
    redact_from_log({SECRET.encode(), b"a-path-hidden-in-the-settings"})
    logger = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
    with configured(log_format):
        logger.warning(
            "one", message=f"It is {SECRET}!", facts={"a": ["/w/a%2Dpath-hidden-in-the-settings?x"]}
        )
        log_failure(f"no {SECRET}")
        logging.getLogger("asyncio").error("quoted /webhooks/loopz/a-path-hidden-in-the-settings")
    printed = capsys.readouterr().err
    assert "hidden" not in printed
    assert printed.count("[redacted]") >= 4
    if log_format == "json":
        assert len([json.loads(line) for line in printed.splitlines()]) == 3


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_holds_a_key(
    log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    key = make_key()
    with configured(log_format):
        log_failure(f"of {key}")
        structlog.wrap_logger(structlog.PrintLogger(sys.stderr)).info("asked", path=f"/v1/{key}")
    printed = capsys.readouterr().err
    assert key not in printed
    assert printed.count("llk_...") >= 2
