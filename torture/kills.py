"""What is done to the server, at random, but no kind again before every other had its turn."""

import asyncio
import contextlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import asyncpg
import psutil

from torture.examine import connected
from torture.queries import QUERIES
from torture.target import Member, Role, Target

# How long a process is stopped; now and then longer than some senders wait.
STOPPED_SECONDS = (0.05, 1.0)
LONG_STOPPED_SECONDS = (2.0, 6.0)
LONG = 0.15

SERVER: frozenset[Role] = frozenset({"parent", "http", "appending", "projecting", "other"})
POSTGRES: frozenset[Role] = frozenset({"postmaster", "postgres"})

# Which processes one SIGKILL hits, all at once; the server is started again by itself or by us.
VICTIMS: Mapping[str, frozenset[Role]] = {
    "the projecting process": frozenset({"projecting"}),
    "the worker that appends for others": frozenset({"appending"}),
    "the parent": frozenset({"parent"}),
    "the whole server": SERVER,
    "the postmaster": frozenset({"postmaster"}),
    "the whole Postgres": POSTGRES,
    "parent and postmaster": frozenset({"parent", "postmaster"}),
    "everything": SERVER | POSTGRES,
}
# Those that have to be there for a kind to make sense.
NEEDED: Mapping[str, frozenset[Role]] = {
    "the whole server": frozenset({"parent"}),
    "everything": frozenset({"parent"}),
    "the whole Postgres": frozenset({"postmaster"}),
}

# Kinds that hit one of these.
ONE_OF: Mapping[str, frozenset[Role]] = {
    "one HTTP worker": frozenset({"http", "appending"}),
    "one process of Postgres": frozenset({"postgres"}),
}
LEADER = "the leader's session"
SESSIONS = "sessions (pg_terminate_backend)"
STOP_BACKENDS = "stopped: processes of Postgres"
STOP_WORKER = "stopped: a worker"

KINDS = (*VICTIMS, *ONE_OF, LEADER, SESSIONS, STOP_BACKENDS, STOP_WORKER)

# How a Postgres shows that is away: then there is nothing to do there.
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# Kinds that need processes of Postgres: those of somebody else's are left alone.
OF_POSTGRES = frozenset(
    {
        "the postmaster",
        "the whole Postgres",
        "parent and postmaster",
        "one process of Postgres",
        STOP_BACKENDS,
    }
)


def kinds_for(*, embedded: bool) -> list[str]:
    """The kinds that there are with an embedded Postgres, or without."""
    return [kind for kind in KINDS if embedded or kind not in OF_POSTGRES]


class Killer:
    """Does one thing after the other to `target`, drawn from `chance`; `note` is told what, and which pids it hit."""

    def __init__(self, target: Target, chance: random.Random, note: Callable[[str], None]) -> None:
        self.kills: Counter[str] = Counter()
        self._target = target
        self._random = chance
        self._note = note
        self._still_to_do: list[str] = []
        self._stopped: set[asyncio.Task[None]] = set()

    async def kill(self) -> None:
        """Do the next thing that there is a process for."""
        while True:
            if not self._still_to_do:
                kinds = kinds_for(embedded=self._target.embedded)
                self._still_to_do = self._random.sample(kinds, len(kinds))
            for kind in self._still_to_do:
                if hit := await self._do(kind):
                    self._still_to_do.remove(kind)
                    self.kills[kind] += 1
                    self._note(f"{kind}: {hit}")
                    return
            await asyncio.sleep(0.05)

    async def wait_until_resumed(self) -> None:
        """Return once every process that was stopped goes on."""
        await asyncio.gather(*self._stopped)

    async def _do(self, kind: str) -> list[int]:
        """Do it; gives back the pids of the processes that it hit."""
        if kind in {SESSIONS, LEADER}:
            return await (self._end_sessions() if kind == SESSIONS else self._kill_leader())
        family = self._target.family()
        if kind in VICTIMS:
            needed = NEEDED.get(kind, VICTIMS[kind])
            if not needed <= {member.role for member in family}:
                return []
            return _signal(_with(family, VICTIMS[kind]), psutil.Process.kill)
        if kind in ONE_OF:
            candidates = _with(family, ONE_OF[kind])
            chosen = self._random.sample(candidates, min(1, len(candidates)))
            return _signal(chosen, psutil.Process.kill)
        if kind == STOP_BACKENDS:
            return self._stop(_with(family, {"postgres"}), at_most=3)
        return self._stop(_with(family, {"http", "appending", "projecting"}), at_most=1)

    def _stop(self, processes: list[psutil.Process], at_most: int) -> list[int]:
        if not processes:
            return []
        count = self._random.randint(1, min(at_most, len(processes)))
        chosen = self._random.sample(processes, count)
        span = LONG_STOPPED_SECONDS if self._random.random() < LONG else STOPPED_SECONDS
        hit = _signal(chosen, psutil.Process.suspend)
        if hit:
            task = asyncio.create_task(_resume(chosen, self._random.uniform(*span)))
            self._stopped.add(task)
            task.add_done_callback(self._stopped.discard)
        return hit

    async def _kill_leader(self) -> list[int]:
        """SIGKILL for the process of Postgres that holds the projecting process's lock; none other.

        In a Postgres that is not ours, that session is ended.
        """
        pids: list[int] = []
        with contextlib.suppress(*_AWAY):
            async with asyncio.timeout(3), connected(self._target.dsn) as connection:
                pids = [row["pid"] for row in await connection.fetch(QUERIES["leader"])]
                if not self._target.embedded:
                    await connection.execute(QUERIES["terminate"], pids)
                    return pids
        family = self._target.family()
        postgres = [each for each in _with(family, {"postgres"}) if each.pid in pids]
        return _signal(postgres, psutil.Process.kill)

    async def _end_sessions(self) -> list[int]:
        share = self._random.choice((0.2, 0.5, 1.0))
        with contextlib.suppress(*_AWAY):
            async with asyncio.timeout(3), connected(self._target.dsn) as connection:
                rows = await connection.fetch(QUERIES["client_backends"])
                pids = [row["pid"] for row in rows]
                chosen = self._random.sample(pids, math.ceil(share * len(pids)))
                await connection.execute(QUERIES["terminate"], chosen)
                return chosen
        return []


def _with(family: Iterable[Member], roles: Iterable[Role]) -> list[psutil.Process]:
    wanted = set(roles)
    return [member.process for member in family if member.role in wanted]


def _signal(
    processes: Iterable[psutil.Process], act: Callable[[psutil.Process], None]
) -> list[int]:
    """Do it to all; gives back the pids of those that were still there. psutil never hits a pid that was reused."""
    hit = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            act(process)
            hit.append(process.pid)
    return hit


async def _resume(processes: Iterable[psutil.Process], seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        _signal(processes, psutil.Process.resume)
