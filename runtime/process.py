"""What a worker process asks of the system and of Python: open files, and when to collect garbage."""

import gc
import resource
from contextlib import suppress

import structlog

logger = structlog.get_logger()

# Files that a process has open besides its connections.
SPARE_FILES = 100

# New objects, less those that are gone, before the garbage collector runs.
GARBAGE_THRESHOLD = 50_000


def allow_connections(connections: int) -> int:
    """Raise the limit of open files for so many connections; returns how many of them it allows."""
    wanted = connections + SPARE_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return connections
    reachable = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, most))
        allowed = reachable
    if allowed >= wanted:
        return connections
    room = max(1, allowed - SPARE_FILES)
    logger.warning(
        "connections_limited",
        message="The limit of open files leaves room for fewer connections than are configured.",
        connections=room,
        files=allowed,
        advice="raise the limit of open files (ulimit -Hn), or lower LOOPLEDGER_LIMITS_CONNECTIONS",
    )
    return room


def collect_garbage_seldom() -> None:
    """Look for garbage seldom: what exists now stays for good, and neither requests nor folds leave cycles behind."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
