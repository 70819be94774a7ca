"""What a crowd may not do: delay or refuse a correct delivery, make a worker grow, push out an operator's rejection."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

from benchmarks.harness.server_process import ROOT
from eventstore.limits import MIB, Limits
from simulation.deliveries import Delivery
from torture.checks import Violations
from torture.client import Client, Credentials, PieceClient
from torture.crowd import ACCEPTED, CONTINUED, SHARED_ADDRESS
from torture.target import Member, Role, Target
from torture.timings import Latencies, Span, Timing, by_way, latencies, parted

# What is promised.
P99_SECONDS = 1.0
# Workers that wait longer for a processor than this share of their time say nothing of that: the machine is too busy.
MOST_WAITING = 0.6
GROWTH_BYTES = 200 * MIB

SAMPLE_SECONDS = 1.0
LOOK_SECONDS = 0.1
BEFORE_SECONDS = 4.0
NOTICE_SECONDS = 1.0
# After a kill, once all processes are there again and deliveries get their 200: as long as that may still be felt.
SETTLE_SECONDS = 3.0
# Between two kills: long enough that most deliveries are made while nothing is being killed.
QUIET_SECONDS = (3.0, 8.0)
# How long a rejection may take to be on record, and on disk.
RECORD_SECONDS = 10.0
ON_DISK_SECONDS = 1.0

WORKERS: tuple[Role, ...] = ("http", "appending", "projecting")

# FitBank's deliveries come from an address that its list names, and nobody of the crowd has.
CREDENTIALS = {
    "loopz": Credentials(SHARED_ADDRESS, "shared-by-torture-and-loopz", signs=True),
    "fitbank": Credentials("127.0.0.9", "shared-by-torture-and-fitbank", signs=False),
}

# Limits that a crowd of a smaller share meets at the same share of them.
SHARED_LIMITS = (
    *("stranger_connections", "address_connections", "unused_bytes", "stranger_reading_bytes"),
    *("unread_bytes", "addresses_remembered", "stranger_rejections_kept"),
)


class Memory(msgspec.Struct, frozen=True):
    """The memory of the processes of one role, in bytes: the largest before the crowd came, and since."""

    before: int
    since: int


class CrowdOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the crowd did, and what came of it; times in seconds.

    `before` are the deliveries of some seconds before the crowd came. Amid it, `undisturbed` are the attempts that
    touch no time in which the server was being killed or came back; `disturbed` all others. `attacks` counts what each
    did and how it was answered. `waiting_share`: of the time that the workers had something to do, how much they waited
    for a processor; None where the system does not say.
    """

    share: float
    before: Latencies
    undisturbed: Latencies
    undisturbed_by_way: dict[str, Latencies]
    disturbed: Latencies
    undisturbed_seconds: float
    memory: dict[str, Memory]
    waiting_share: float | None
    rejection_kept: bool
    attacks: dict[str, dict[str, int]]


Next200 = Callable[[], Coroutine[Any, Any, None]]


class _Item(msgspec.Struct):
    id: int
    verified: bool


class _Listed(msgspec.Struct):
    items: list[_Item]


class Processors:
    """How long processes ran, and how long they waited for a processor, from the first look at each to the last."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, int]] = {}
        self._last: dict[int, tuple[int, int]] = {}

    def look(self, pid: int) -> None:
        """Look at a process; nothing is seen of it where the system does not tell."""
        with suppress(OSError, ValueError):
            ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
            self._last[pid] = int(ran), int(waited)
            self._first.setdefault(pid, self._last[pid])

    @property
    def waiting_share(self) -> float | None:
        """Of the time that they ran or waited, how much they waited; None if nothing was seen."""
        ran, waited = (
            sum(self._last[pid][which] - first[which] for pid, first in self._first.items())
            for which in (0, 1)
        )
        return round(waited / (ran + waited), 2) if ran + waited else None


class CrowdWatch:
    """A crowd around `target`, of this share of a full one, and what it does to the senders."""

    def __init__(
        self, target: Target, next_200: Next200, *, share: float, workers: int, seed: int
    ) -> None:
        """Make one. `next_200` returns once a delivery gets its 200."""
        self.timings: list[Timing] = []
        self._target = target
        self._next_200 = next_200
        self._share = share
        self._workers = workers
        self._seed = seed
        self._random = random.Random(f"pieces {seed}")  # noqa: S311 (seeded on purpose)
        self._disturbances: list[Span] = []
        self._calm_from = self._began = self._ended = 0.0
        self._before: dict[str, int] = {}
        self._since: dict[str, int] = {}
        self._processors = Processors()
        self._rejection = 0
        self._rejection_kept = False
        self._attacks: dict[str, dict[str, int]] = {}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Make the client of one sender."""
        client = PieceClient(self._target.port, CREDENTIALS, self._random, self.timings)
        try:
            yield client
        finally:
            client.close()

    @asynccontextmanager
    async def gathered(self) -> AsyncIterator[None]:
        """Have a rejection on record, then a crowd during the block; afterwards see whether it is still there."""
        self._rejection = await self._refused()
        self._calm_from = time.monotonic()
        await asyncio.sleep(BEFORE_SECONDS)
        await self._sample(self._before)
        process = await self._gather()
        self._began = time.monotonic()
        sampling = asyncio.create_task(self._keep_sampling())
        try:
            yield
            said, _ = await process.communicate(b"")
            self._attacks = msgspec.json.decode(said, type=dict[str, dict[str, int]])
        finally:
            self._ended = time.monotonic()
            sampling.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        async with (
            aiohttp.ClientSession(self._target.url) as session,
            session.get(f"/v1/rejections/{self._rejection}") as response,
        ):
            self._rejection_kept = response.status == HTTPStatus.OK

    async def pause(self) -> None:
        """Let deliveries be made while nothing is being killed."""
        await asyncio.sleep(self._random.uniform(*QUIET_SECONDS))

    async def settle(self, began: float) -> None:
        """Return once a kill at `began` cannot be felt any more."""
        # Until then, those who lost their parent or their Postgres have noticed.
        await asyncio.sleep(NOTICE_SECONDS)
        while not is_whole(await asyncio.to_thread(self._target.family), self._workers):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(LOOK_SECONDS)
        await self._next_200()
        await asyncio.sleep(SETTLE_SECONDS)
        self._disturbances.append(Span(began, time.monotonic()))

    def outcome(self) -> CrowdOutcome:
        """What came of it."""
        before = [e for e in self.timings if self._calm_from <= e.began and e.ended < self._began]
        amid = [each for each in self.timings if each.began >= self._began > 0]
        undisturbed, disturbed = parted(amid, self._disturbances)
        return CrowdOutcome(
            share=self._share,
            before=latencies(before),
            undisturbed=latencies(undisturbed),
            undisturbed_by_way=by_way(undisturbed),
            disturbed=latencies(disturbed),
            undisturbed_seconds=round(
                self._ended - self._began - sum(b - a for a, b in self._disturbances), 1
            ),
            memory={
                role: Memory(self._before.get(role, 0), since)
                for role, since in sorted(self._since.items())
            },
            waiting_share=self._processors.waiting_share,
            rejection_kept=self._rejection_kept,
            attacks=self._attacks,
        )

    async def _gather(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torture.crowd", str(self._target.port)),
            *("--workers", str(self._workers), "--share", str(self._share)),
            *("--seed", str(self._seed)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def _refused(self) -> int:
        """Send what a verified sender should not have; gives back the id of its rejection, once that is on disk."""
        no_delivery = Delivery(path="/webhooks/loopz", headers={}, body=b"no JSON", thing="")
        async with self.client() as client, aiohttp.ClientSession(self._target.url) as session:
            await client.post(no_delivery, {}, RECORD_SECONDS)
            async with asyncio.timeout(RECORD_SECONDS):
                while True:
                    async with session.get("/v1/rejections") as response:
                        listed = msgspec.json.decode(await response.read(), type=_Listed)
                    if found := [each.id for each in listed.items if each.verified]:
                        await asyncio.sleep(ON_DISK_SECONDS)
                        return found[0]
                    await asyncio.sleep(LOOK_SECONDS)

    async def _keep_sampling(self) -> None:
        while True:
            await self._sample(self._since)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _sample(self, peaks: dict[str, int]) -> None:
        """Note the memory of the workers, in another thread: looking through all processes takes a while."""
        for member in await asyncio.to_thread(self._target.family):
            if member.role in WORKERS:
                self._processors.look(member.process.pid)
                with suppress(psutil.Error):
                    size = member.process.memory_info().rss
                    peaks[member.role] = max(peaks.get(member.role, 0), size)


def is_whole(family: Iterable[Member], workers: int) -> bool:
    """Whether every process of a server of so many workers is there."""
    roles = Counter(member.role for member in family)
    return (
        roles["parent"] == 1
        and roles["http"] + roles["appending"] == workers
        and roles["projecting"] == 1
    )


def settings(share: float) -> dict[str, str]:
    """The settings of a server that a crowd of this share comes to: how senders are verified, and its limits."""
    verifications = {
        name: {"hmac": {"header": "X-Hub-Signature-256", "prefix": "sha256=", "secrets": secrets}}
        if each.signs
        else {"tokens": {"secrets": secrets}, "addresses": [each.address]}
        for name, each in CREDENTIALS.items()
        for secrets in [[{"env": f"TORTURE_{name.upper()}"}]]
    }
    return {
        **{f"TORTURE_{name.upper()}": each.secret for name, each in CREDENTIALS.items()},
        **{
            f"LOOPLEDGER_{name.upper()}_VERIFICATION": json.dumps(each)
            for name, each in verifications.items()
        },
        **{
            f"LOOPLEDGER_LIMITS_{name.upper()}": str(max(1, round(getattr(Limits(), name) * share)))
            for name in SHARED_LIMITS
        },
    }


def check(outcome: CrowdOutcome, violations: Violations) -> None:
    """Hold what came of it to what is promised; times only if the machine had time for the server."""
    starved = (outcome.waiting_share or 0.0) > MOST_WAITING
    for status, count in outcome.undisturbed.others.items():
        if not (starved and status == TimeoutError.__name__):
            violations.add("unserved", f"answered {status} while nothing was being killed", count)
    if outcome.undisturbed.p99 >= P99_SECONDS and not starved:
        violations.add("slow", f"99 of 100 deliveries within {outcome.undisturbed.p99} s")
    for role, memory in outcome.memory.items():
        grown = memory.since - memory.before
        if grown > GROWTH_BYTES:
            violations.add("memory", f"{role}: grown by {grown // MIB} MiB")
    if not outcome.rejection_kept:
        violations.add("forgotten", "the rejection of a verified sender is gone")
    for name, counts in outcome.attacks.items():
        for status in (CONTINUED, ACCEPTED):
            if count := counts.get(status, 0):
                violations.add("trusted", f"{name}: answered {status}", count)
