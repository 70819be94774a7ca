"""A pytest plugin: no test hangs the suite, whatever it hangs in.

pytest-timeout fails a test whose time is up by raising out of a signal handler, so that fixtures still clean up. That
does not end everything: uvloop and Hypothesis catch what is raised there, and a clean-up may hang in its turn. A test
that is still running GRACE_SECONDS later therefore ends its process: pytest-xdist reports the test and goes on with the
others in a new one. Either way all stacks are shown, those of asyncio tasks included.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from types import FrameType

import pytest
import pytest_timeout  # type: ignore[import-untyped]

GRACE_SECONDS = 60.0

_LAST_RESORT = pytest.StashKey[threading.Timer]()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(
    item: pytest.Item, settings: pytest_timeout.Settings
) -> Generator[None, object, object]:
    """Have the stacks of the tasks printed when the time is up, and the process ended if that does not end the test."""
    result = yield
    fail = signal.getsignal(signal.SIGALRM)

    def show_tasks_and_fail(number: int, frame: FrameType | None) -> None:
        _print_tasks()
        if callable(fail):
            fail(number, frame)

    signal.signal(signal.SIGALRM, show_tasks_and_fail)
    last_resort = threading.Timer(settings.timeout + GRACE_SECONDS, _end_process, (item,))
    last_resort.daemon = True
    last_resort.start()
    item.stash[_LAST_RESORT] = last_resort
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Call off the end of the process once fixtures have cleaned up too: pytest-timeout stops at the first failure."""
    try:
        return (yield)
    finally:
        if _LAST_RESORT in item.stash:
            item.stash[_LAST_RESORT].cancel()


def _print_tasks() -> None:
    """Print where each task of the running loop waits, from the outermost coroutine to the innermost."""
    tasks: set[asyncio.Task[object]] = set()
    with suppress(RuntimeError):  # no loop is running
        tasks = asyncio.all_tasks()
    for task in tasks:
        sys.stderr.write(f"{task.get_name()} waits in\n")
        waiting: object = task.get_coro()
        while (frame := getattr(waiting, "cr_frame", None)) is not None:
            sys.stderr.write(
                f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'
            )
            waiting = getattr(waiting, "cr_await", None)


def _end_process(item: pytest.Item) -> None:
    if pytest_timeout.is_debugging():
        return
    capture = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture()
        sys.stderr.write("\n" + "".join(capture.read_global_capture()))
    sys.stderr.write(f"\n{item.nodeid} cannot be ended; ending its process. The stacks:\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(1)
