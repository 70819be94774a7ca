"""Several processes as one server: start them, restart what dies, stop them all.

A child learns that its parent is gone by a pipe that only the parent holds open: whatever kills the parent, no child
outlives it.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from eventstore.tasks import Backoff, cancel_all

logger = structlog.get_logger()

# Seconds between checks that a worker still runs.
WATCH_SECONDS = 0.1

# Seconds before a worker that died is started again: the first time, doubled up to the longest while it keeps dying.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 2.0

# After a worker that ran this long, the pauses begin afresh.
STABLE_SECONDS = 5.0


class Workers:
    """Processes of our own program, by the names that log lines give them; `environ` gives the environment of each.

    `on_start` gets one end of a socket for each that is started, whose other end that process has as `--channel`.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        environ: Callable[[str], Mapping[str, str]],
        inherit: Sequence[int],
        on_start: Callable[[socket.socket], None],
    ) -> None:
        self._commands = commands
        self._environ = environ
        self._inherit = inherit
        self._on_start = on_start
        # How often each was started again.
        self.restarts = dict.fromkeys(commands, 0)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # Nothing is ever written to the parent's end: that it closes is the message.
        self._lifeline, self._hold = os.pipe()
        self._watchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every worker, and watch it."""
        for name in self._commands:
            self._spawn(name)
            self._watchers.append(asyncio.create_task(self._watch(name), name=f"watch-{name}"))

    async def stop(self, seconds: float) -> None:
        """Ask every worker to stop; kill those that have not after `seconds`."""
        await cancel_all(*self._watchers)
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + seconds
        while self._living() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a process gives no event to wait for
            await asyncio.sleep(0.01)
        for name in self._living():
            logger.error(
                "worker_killed",
                message="A worker did not stop in time and was killed.",
                worker=name,
            )
            self._running[name].kill()
            self._running[name].wait()
        os.close(self._hold)
        os.close(self._lifeline)

    def _living(self) -> list[str]:
        return [name for name, process in self._running.items() if process.poll() is None]

    def _spawn(self, name: str) -> None:
        ours, theirs = socket.socketpair()
        lifeline, channel = self._lifeline, theirs.fileno()
        options = ["--name", name, "--lifeline", str(lifeline), "--channel", str(channel)]
        try:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, *self._commands[name], *options],
                env=self._environ(name),
                pass_fds=(lifeline, channel, *self._inherit),
                stdin=subprocess.DEVNULL,
                # Ctrl-C in the terminal reaches the parent only, which then stops its workers in order.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._on_start(ours)

    async def _watch(self, name: str) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, stable_seconds=STABLE_SECONDS)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            status = self._running[name].poll()
            if status is None:
                continue
            logger.error(
                "worker_died",
                message="A worker process died; starting it again.",
                worker=name,
                status=status,
            )
            await asyncio.sleep(backoff.next_pause())
            try:
                self._spawn(name)
                self.restarts[name] += 1
            except OSError as error:
                # No memory or no file descriptors now: the next check tries again.
                logger.error(
                    "worker_not_started",
                    message="A worker process could not be started; trying again.",
                    worker=name,
                    error=str(error),
                )


async def parent_gone(lifeline: int) -> None:
    """Return when the process at the other end of `lifeline` is gone."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(lifeline, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(lifeline)
