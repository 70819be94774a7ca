"""Several things at once, none of which outlives who waits for it.

asyncio.TaskGroup would do, but in Python 3.11 and 3.12 it leaves who waits for it marked as cancelled when a task
fails.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


async def run_all(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """Do all of these; gives back what each gave. If one fails, the others are ended, and its error is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(*tasks)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do `work` meanwhile."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await _end(task)


async def _end(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
