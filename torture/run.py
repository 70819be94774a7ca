"""One run: start, load, kills, and the examination afterwards."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from torture import crowd_watch
from torture.checks import LogCheck, Violation, Violations
from torture.client import aiohttp_client
from torture.crowd_watch import CrowdOutcome, CrowdWatch
from torture.examine import caught_up, examine
from torture.fresh_database import FreshDatabase
from torture.kills import Killer
from torture.load import Load
from torture.sender_log import SenderLog
from torture.target import Target

# Between two kills: short enough to hit a recovery, long enough for some work to be done.
PAUSE_SECONDS = (0.05, 1.5)
# After this share of the kills the server may come back first: there must be something to lose.
LET_COME_BACK = 0.4

# How long it may take to come back; the pauses before what keeps dying is started again are part of it.
BACK_SECONDS = 120.0

# How often progress is shown.
SHOW_SECONDS = 2.0

Show = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `seed` decides what is sent, what is killed and how long the pauses are.

    `database_url` names a server where a database is made for it; None is an embedded Postgres. `crowd` is how much of
    a full crowd comes too; 0 is none, and senders that nothing verifies.
    """

    kills: int
    seed: int
    workers: int
    senders: int
    keep: bool = False
    crowd: float = 0.0
    database_url: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Times in seconds; `kept` is where the data and the server's logs are, if they were kept."""

    seed: int
    workers: int
    senders: int
    seconds: float
    kills: int
    kills_by_kind: dict[str, int]
    starts: int
    failed_starts: dict[str, int]
    deliveries: int
    attempts: int
    answers: dict[str, int]
    acknowledged: int
    on_record: int
    lost: int
    doubled: int
    holes: int
    repeated_after_a_lost_answer: int
    longest_time_without_a_200: float
    violations: dict[str, int]
    first_violations: list[Violation]
    logged: dict[str, int]
    crowd: CrowdOutcome | None
    kept: str | None

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations


class _DownError(Exception):
    """The server did not come back."""


async def torture(plan: Plan, show: Show) -> Outcome:
    """Run the plan; `show` is told how far it is."""
    directory = _public_directory()
    database = None if plan.database_url is None else FreshDatabase(plan.database_url)
    if database is not None:
        await database.create()
    run = _Run(plan, directory, show, None if database is None else database.url)
    try:
        return await run.run_and_examine()
    finally:
        run.target.end()
        if not run.keep:
            shutil.rmtree(directory)
            if database is not None:
                await database.drop()


def _public_directory() -> Path:
    """A short directory that the unprivileged user of Postgres may enter."""
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    directory.chmod(0o711)
    return directory


class _Run:
    """A run under way."""

    def __init__(
        self, plan: Plan, directory: Path, show: Show, database_url: str | None = None
    ) -> None:
        self.target = Target(
            directory,
            workers=plan.workers,
            seed=plan.seed,
            database_url=database_url,
            settings=crowd_watch.settings(plan.crowd) if plan.crowd else None,
        )
        self._crowd = (
            CrowdWatch(
                self.target, self._next_200, share=plan.crowd, workers=plan.workers, seed=plan.seed
            )
            if plan.crowd
            else None
        )
        self.violations = Violations()
        self._plan = plan
        self._directory = directory
        self._show = show
        self._began = time.monotonic()
        self._sender_log = SenderLog()
        self._random = random.Random(f"kills {plan.seed}")  # noqa: S311 (seeded on purpose)
        self._killer = Killer(self.target, self._random, self._note)
        self._check = LogCheck(self._sender_log, self.violations)

    async def run_and_examine(self) -> Outcome:
        """Load and kill, let it come to rest, examine, stop."""
        async with _beside(self.target.stay_up()), _beside(self._show_progress()):
            try:
                await self._load_and_kill()
                self._show("load and kills are over; comparing the log with what was sent")
                await self._wait_until_folded()
                self._check = await examine(self.target.dsn, self._sender_log, self.violations)
            except* _DownError as group:
                self.violations.add("down", str(group.exceptions[0]))
        await self._stop()
        return self._outcome(str(self._directory) if self.keep else None)

    @property
    def keep(self) -> bool:
        """Whether the data and the server's logs are worth keeping."""
        return self._plan.keep or bool(self.violations.counts)

    async def _load_and_kill(self) -> None:
        crowd = self._crowd
        connect = partial(aiohttp_client, self.target.url) if crowd is None else crowd.client
        load = Load(connect, self._sender_log, self._plan.seed)
        async with _beside(load.run(self._plan.senders)) as sending:
            await self._next_200()
            async with crowd.gathered() if crowd is not None else nullcontext():
                for _ in range(self._plan.kills):
                    await (self._kill() if crowd is None else self._kill_amid(crowd))
                await self._killer.wait_until_resumed()
                await self._next_200()
                load.end()
                await asyncio.wait([sending], timeout=BACK_SECONDS)
            if not sending.done():
                message = f"deliveries have no 200 {BACK_SECONDS:g} s after the last kill"
                raise _DownError(message)

    async def _kill(self) -> None:
        await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        await self._killer.kill()
        if self._random.random() < LET_COME_BACK:
            await self._next_200()

    async def _kill_amid(self, crowd: CrowdWatch) -> None:
        """Kill, and let all come back: latencies amid a crowd say nothing of a server that is down."""
        await crowd.pause()
        began = time.monotonic()
        await self._killer.kill()
        await self._killer.wait_until_resumed()
        await crowd.settle(began)

    async def _next_200(self) -> None:
        acknowledged = self._sender_log.acknowledged
        deadline = time.monotonic() + BACK_SECONDS
        while self._sender_log.acknowledged == acknowledged:
            if time.monotonic() > deadline:
                message = f"no 200 within {BACK_SECONDS:g} s"
                raise _DownError(message)
            await asyncio.sleep(0.02)

    async def _wait_until_folded(self) -> None:
        """Return once all is folded and the server says that all is well."""
        if not await caught_up(self.target.dsn):
            self.violations.add("down", "the projections do not catch up")
        async with aiohttp.ClientSession(self.target.url) as session:
            for path in ("/readyz", "/healthz/projections"):
                async with session.get(path) as response:
                    if response.status != HTTPStatus.OK:
                        self.violations.add("down", f"{path} answers {response.status}")

    async def _stop(self) -> None:
        if problem := await self.target.stop():
            self.violations.add("stop", problem)
        for orphan in await self.target.orphans():
            self.violations.add("orphan", orphan)
        if self._crowd is not None:
            crowd_watch.check(self._crowd.outcome(), self.violations)
        for number, status in self._sender_log.refused:
            stream = self._sender_log.deliveries[number].stream
            self.violations.add("refused", f"{stream}: answered {status}")
        for said, count in self.target.logged().items():
            if said.startswith(("panic", "critical")):
                self.violations.add("critical", said, count)

    def _note(self, line: str) -> None:
        """Write beside the server's logs when what was done: whoever reads those will ask."""
        with (self._directory / "kills.log").open("a") as log:
            log.write(
                f"{datetime.now(UTC).isoformat()} {line};"
                f" {self._sender_log.silence:.2f} s since the last 200\n"
            )

    async def _show_progress(self) -> None:
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            self._show(
                f"{self._killer.kills.total():,} of {self._plan.kills:,} kills,"
                f" {self._sender_log.acknowledged:,} acknowledged,"
                f" {self._sender_log.silence:.1f} s since the last 200"
            )

    def _outcome(self, kept: str | None) -> Outcome:
        plan, sender_log, counts = self._plan, self._sender_log, self.violations.counts
        return Outcome(
            seed=plan.seed,
            workers=plan.workers,
            senders=plan.senders,
            seconds=round(time.monotonic() - self._began, 1),
            kills=self._killer.kills.total(),
            kills_by_kind=dict(self._killer.kills.most_common()),
            starts=self.target.starts,
            failed_starts=dict(self.target.failed_starts.most_common()),
            deliveries=len(sender_log.deliveries),
            attempts=sender_log.attempts,
            answers=dict(sender_log.answers.most_common()),
            acknowledged=sender_log.acknowledged,
            on_record=self._check.events,
            lost=counts["lost"],
            doubled=counts["doubled"],
            holes=counts["hole"],
            repeated_after_a_lost_answer=self._check.repeated,
            longest_time_without_a_200=round(sender_log.longest_silence, 2),
            violations={str(kind): count for kind, count in counts.items()},
            first_violations=self.violations.first,
            logged=dict(self.target.logged().most_common()),
            crowd=None if self._crowd is None else self._crowd.outcome(),
            kept=kept,
        )


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Let `work` go on beside the block, and end with it; its failure ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield task
        finally:
            task.cancel()
