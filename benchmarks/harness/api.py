"""How far a Loopledger is, asked through its API as anybody would."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus

import aiohttp
import msgspec

from benchmarks.harness.command import fail
from eventstore.query.cursor import Page
from web.api.projections import ProjectionSummary

LOOK_SECONDS = 0.05
# How long catching up with the log, or a rebuild, may take.
LONGEST_SECONDS = 7_200.0


class Api:
    """The API of a Loopledger that runs."""

    def __init__(self, url: str, session: aiohttp.ClientSession, key: str | None = None) -> None:
        self._url = url
        self._session = session
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def send(self, method: str, path: str) -> bytes:
        """Send a request; gives back the body. Raises BenchmarkError unless it was answered 200 or 202."""
        async with self._session.request(
            method, self._url + path, headers=self._headers
        ) as response:
            body = await response.read()
            if response.status not in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                fail(f"{method} {path} was answered {response.status}: {body!r}")
            return body

    async def status(self, path: str) -> int:
        """The status that a GET is answered with."""
        async with self._session.get(self._url + path) as response:
            return response.status

    async def caught_up(
        self, show: Callable[[float], None] = lambda _: None, look_seconds: float = LOOK_SECONDS
    ) -> list[ProjectionSummary]:
        """Wait until every projection is at the head, and that does not move; `show` is told how far they are.

        Raises BenchmarkError if one is held up.
        """
        last: list[ProjectionSummary] = []
        deadline = time.monotonic() + LONGEST_SECONDS
        while time.monotonic() < deadline:
            body = await self.send("GET", "/v1/projections")
            now = msgspec.json.decode(body, type=Page[ProjectionSummary, None]).items
            if held_up := [each for each in now if each.error]:
                fail(f"a projection is held up: {held_up}")
            show(min((each.checkpoint for each in now), default=0))
            # Twice the same: what was in flight when a load ended is on record too.
            if now and now == last and all(each.checkpoint == each.head for each in now):
                return now
            last = now
            await asyncio.sleep(look_seconds)
        return fail(f"the projections did not catch up: {last}")


class HeadCheck:
    """The head of a Loopledger under load, and where it may be at most."""

    def __init__(self, url: str, head: int) -> None:
        self._url = url
        self.head = head
        self.acknowledged = 0

    async def settle(self, acknowledged: int = 0, in_flight: int = 0) -> float:
        """Wait until all is folded; gives back how many seconds that took.

        Raises BenchmarkError unless the head moved by what was acknowledged, and by no more than what was in flight
        besides when the load ended; and unless every projection accounts for every event.
        """
        began = time.monotonic()
        async with aiohttp.ClientSession() as session:
            projections = await Api(self._url, session).caught_up()
        took = time.monotonic() - began
        for each in projections:
            counted = each.folded + each.ignored + each.quarantined
            if counted != each.head or each.quarantined:
                fail(f"not every event is accounted for: {each}")
        before, self.head = self.head, projections[0].head
        self.acknowledged += acknowledged
        if not acknowledged <= self.head - before <= acknowledged + in_flight:
            fail(
                f"{acknowledged} deliveries were acknowledged, at most {in_flight} more were in flight, "
                f"and the head moved from {before} to {self.head}"
            )
        return took
