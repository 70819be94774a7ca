"""Tasks that do not outlive whoever waits for them, and pauses between tries.

asyncio.TaskGroup would do for the first, but in Python 3.11 and 3.12 it leaves whoever waits for it marked as cancelled
when a task fails.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


async def run_all(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """Do all of these; returns their results. If one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel_all(*tasks)


@asynccontextmanager
async def in_background(
    work: Coroutine[Any, Any, Any], name: str | None = None
) -> AsyncIterator["asyncio.Task[Any]"]:
    """Do `work` in a task of this name while the block runs; gives the task."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        await cancel_all(task)


def start_for_all(work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
    """Do `work` in a task that goes on for others too: it does not log the id of the request that began it."""
    return asyncio.create_task(work, name=name, context=Context())


async def cancel_all(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel these tasks and wait until they have ended, whatever with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def raise_if_cancelled() -> None:
    """Go on being cancelled, if this task is.

    For every `except Exception` that carries on: where a connection dies while its caller is cancelled, the driver's
    error takes the place of CancelledError, and the task would live on.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


# How long a loop may be held at a time, in seconds: less than a delivery takes.
HOLD_SECONDS = 0.002


class Pacer:
    """For a computation that takes long: lets the loop do something else every few milliseconds."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + HOLD_SECONDS

    async def pause(self) -> None:
        """Give others their turn, if it is time."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + HOLD_SECONDS


class Backoff:
    """Pauses between tries, in seconds: `first`, doubled each time up to `longest`.

    They begin at `first` again after `reset`, or if `stable_seconds` have passed since the last pause was over.
    """

    def __init__(self, first: float, longest: float, *, stable_seconds: float = math.inf) -> None:
        self._first = first
        self._longest = longest
        self._stable_seconds = stable_seconds
        self._next = first
        # When the last pause was over.
        self._resumed = -math.inf

    def reset(self) -> None:
        """Begin again at the first pause."""
        self._next = self._first

    def next_pause(self) -> float:
        """How long to pause now."""
        now = time.monotonic()
        if now - self._resumed > self._stable_seconds:
            self.reset()
        pause = self._next
        self._next = min(2 * pause, self._longest)
        self._resumed = now + pause
        return pause
