"""What fails says why in a line; a traceback is for who asks for one."""

import asyncio
import sys

import asyncpg
import pytest
import structlog

import commands
import server
from commands import projections
from eventstore.errors import NotReadyError
from runtime.logging import configure_logging
from runtime.settings import Settings


def fail(*_: object) -> None:
    values: dict[str, str] = {}
    assert values["a card number"]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_command_that_fails_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    monkeypatch.setenv("LOOPLEDGER_LOG_LEVEL", level)
    monkeypatch.setattr(projections, "run", fail)
    if level == "debug":
        with pytest.raises(KeyError):
            commands.main(["projections"])
        return
    assert commands.main(["projections"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("loopledger: KeyError: at test_failing.py:")
    assert line.endswith("with the traceback that LOOPLEDGER_LOG_LEVEL=debug shows.")
    assert "a card number" not in line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: No such file or directory"),
        (asyncpg.InterfaceError("closed"), "the connection to Postgres was lost (InterfaceError"),
        (ZeroDivisionError(), "ZeroDivisionError: at test_failing.py:"),
    ],
    ids=["a file", "Postgres", "ours"],
)
def test_a_server_that_cannot_start_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    async def serve(_: Settings) -> None:
        await asyncio.sleep(0)
        raise error

    def ended(work: object) -> object:
        return work

    monkeypatch.setattr(server, "_serve", serve)
    monkeypatch.setattr(server, "_until_stopped", ended)
    assert server.main([]) == 1
    assert f"loopledger: {line}" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
def test_a_rebuild_that_failed_for_a_reason_of_ours_is_logged_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
    level: str,
    told: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    before = structlog.get_config()
    try:
        configure_logging(Settings(log_level=level, log_format="json"))  # type: ignore[arg-type]
        error = NotReadyError(projection="transactions")
        logger = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
        logger.error("rebuild_failed", message="A rebuild failed.", exc_info=error)
    finally:
        structlog.configure(**before)
    printed = capsys.readouterr().err
    assert "No generation of transactions is ready" in printed
    assert ("exc_type" in printed) == told
