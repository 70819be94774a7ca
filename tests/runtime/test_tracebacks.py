"""Tracebacks in the log: short enough that the cause is seen, and without the values of variables."""

import asyncio
import json

import pytest
import structlog

from runtime.logging import configure_logging
from runtime.settings import Settings

SECRET = "a card's code"  # noqa: S105 - made up


def fail(depth: int) -> None:
    code = SECRET
    if depth:
        fail(depth - 1)
        return
    try:
        int("not a number")
    except ValueError as error:
        message = "the cause"
        raise LookupError(message, len(code)) from error


async def fail_together() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(_failing())


async def _failing() -> None:
    fail(100)


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_a_deep_error_of_many_tasks_is_told_in_few_lines(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Settings(log_format=log_format))  # type: ignore[arg-type]
    try:
        await fail_together()
    except ExceptionGroup as error:
        structlog.get_logger().error("rebuild_failed", message="It failed.", exc_info=error)
    output = capsys.readouterr().err
    lines = json.dumps(json.loads(output), indent=0) if log_format == "json" else output
    assert "LookupError" in lines
    assert "the cause" in lines
    assert SECRET not in lines
    assert len(output) < 20_000
    if log_format == "console":
        assert len(output.splitlines()) < 100
