"""Which workers of a server append, and how the others reach those."""

import argparse
import os
import socket
from contextlib import ExitStack
from typing import NamedTuple, Self

# So many workers append, if there are as many processors, unless the settings say otherwise.
MOST_APPENDERS = 4


class Relay(NamedTuple):
    """What a worker inherits: the end `for_others`, if it appends for others, or that of one to append `through`."""

    for_others: socket.socket | None
    through: socket.socket | None


class Relays:
    """The sockets by which workers find each other. The parent holds them all, so they outlive the workers.

    Whoever connects sends one end of a new connection as a message: nobody but what the parent starts can.
    """

    def __init__(self, workers: int, appenders: int) -> None:
        appenders = appenders or min(os.cpu_count() or 1, MOST_APPENDERS)
        self._stack = ExitStack()
        self._pairs = [
            socket.socketpair(type=socket.SOCK_DGRAM)
            for _ in range(appenders if workers > appenders else 0)
        ]
        for end in self._ends():
            self._stack.enter_context(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def descriptors(self) -> list[int]:
        """What every worker inherits."""
        return [end.fileno() for end in self._ends()]

    def arguments(self, worker: int) -> list[str]:
        """What tells a worker its part; they are numbered from 0 on."""
        if not self._pairs:
            return []
        theirs, through = self._pairs[worker % len(self._pairs)]
        if worker < len(self._pairs):
            return ["--append-for", str(theirs.fileno())]
        return ["--append-through", str(through.fileno())]

    def _ends(self) -> list[socket.socket]:
        return [end for pair in self._pairs for end in pair]


def add_relay_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the parent passes to its workers."""
    parser.add_argument("--append-for", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--append-through", type=int, help=argparse.SUPPRESS)


def inherited_relay(given: argparse.Namespace) -> Relay:
    """What this worker was given."""
    return Relay(
        *(
            None if descriptor is None else socket.socket(fileno=descriptor)
            for descriptor in (given.append_for, given.append_through)
        )
    )
