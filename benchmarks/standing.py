"""Where a Loopledger stands, asked through its API, and whether it kept what it acknowledged."""

import asyncio
import time

import aiohttp
import msgspec

from benchmarks.processes import fail

# How long the projections may take to catch up, and seconds between looks.
SETTLE_SECONDS = 600.0
LOOK_SECONDS = 0.05


class Standing(msgspec.Struct, frozen=True):
    """One projection, as `GET /v1/projections` tells it."""

    name: str
    head: int
    lag: int
    folded: int
    ignored: int
    quarantined: int
    error: str | None


class _Page(msgspec.Struct):
    items: list[Standing]


_decode = msgspec.json.Decoder(_Page).decode


class Ledger:
    """A Loopledger under load: its head, and what it may be at most."""

    def __init__(self, url: str, head: int) -> None:
        self._url = url
        self.head = head
        self.acknowledged = 0
        self.standings: list[Standing] = []

    async def settle(self, acknowledged: int = 0, in_flight: int = 0) -> float:
        """Wait until all is folded; gives back how many seconds that took.

        Raises BenchmarkError unless the head moved by what was acknowledged, and by no more than what was in flight
        besides when the load ended; and unless every projection accounts for every event.
        """
        began = time.monotonic()
        self.standings = await self._caught_up()
        took = time.monotonic() - began
        for standing in self.standings:
            counted = standing.folded + standing.ignored + standing.quarantined
            if counted != standing.head or standing.quarantined:
                fail(f"not every event is accounted for: {standing}")
        before, self.head = self.head, self.standings[0].head
        self.acknowledged += acknowledged
        if not acknowledged <= self.head - before <= acknowledged + in_flight:
            fail(
                f"{acknowledged} deliveries were acknowledged, at most {in_flight} more were in flight, "
                f"and the head moved from {before} to {self.head}"
            )
        return took

    async def _caught_up(self) -> list[Standing]:
        last: list[Standing] = []
        deadline = time.monotonic() + SETTLE_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                async with session.get(f"{self._url}/v1/projections") as answer:
                    now = _decode(await answer.read()).items
                if held_up := [each for each in now if each.error]:
                    fail(f"a projection is held up: {held_up}")
                # Twice the same: what was in flight when the load ended is on record too.
                if now and now == last and not any(each.lag for each in now):
                    return now
                last = now
                await asyncio.sleep(LOOK_SECONDS)
        return fail(f"the projections did not catch up: {last}")
