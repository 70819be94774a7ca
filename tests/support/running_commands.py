"""A command of `loopledger` that asks a fake server, run in this process."""

import argparse
import asyncio
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from commands import rebuild
from commands._rebuilds import Pace
from commands._screen import Screen, console
from tests.support.fake_loopledger import FakeLoopledger

QUICK = Pace(poll=0.005, line=0.0, patience=5.0)


class Result(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Serve = Callable[[FakeLoopledger], Any]


async def run_command(
    module: ModuleType,
    url: str,
    *arguments: str,
    pace: Pace = QUICK,
    ask: Callable[[str], str] | None = None,
    terminal: bool = False,
    width: int = 100,
) -> Result:
    """Run a command in a thread, beside the server in this one."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    given = parser.parse_args(["--url", url, *arguments])
    out, err = (console(file=io.StringIO(), width=width, force_terminal=terminal) for _ in range(2))
    screen = Screen(out, err, ask)
    options = (given, screen, pace) if module is rebuild else (given, screen)
    code = await asyncio.to_thread(module.run, *options)
    assert isinstance(out.file, io.StringIO)
    assert isinstance(err.file, io.StringIO)
    return Result(code, out.file.getvalue(), err.file.getvalue())


async def rebuilt(fake: FakeLoopledger, *options: str, **more: Any) -> Result:  # noqa: ANN401
    return await run_command(rebuild, fake.url, "transactions", *options, **more)


def never(question: str) -> str:
    raise AssertionError(question)
