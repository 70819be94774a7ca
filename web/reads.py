"""Turns: what the API computes waits for what the loop has to do for deliveries.

Both run on the loop of a worker. A request of the API runs step by step, from one `await` to the next, and each step is
a turn: while deliveries come in, all requests together get a share of the time, one address after the other. So a long
computation has to `await` now and then (`eventstore.tasks.Pacer`).
"""

import asyncio
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Generator
from time import perf_counter
from typing import Any, TypeVar, cast

from aiohttp import web

from eventstore.limits import Limits
from web.errors import TooManyReadsError
from web.responses import Handler

Result = TypeVar("Result")

# Of the time while deliveries come in.
SHARE = 0.5

# How long requests may run before they wait, in seconds: their share of the time that came before.
BURST_SECONDS = 0.002

# What a request costs before its first step and after its last, in seconds: reading and writing HTTP.
HTTP_SECONDS = 0.000_1

# Deliveries come in if the newest is not older than this.
RECENT_SECONDS = 0.25


class ReadTurns:
    """Gives the requests of the API their turns. `newest_delivery` tells when one came in, by `perf_counter`.

    Paths in `exempt` wait for nothing: a server is well, however much is asked of it.
    """

    def __init__(
        self, limits: Limits, newest_delivery: Callable[[], float], exempt: Collection[str] = ()
    ) -> None:
        self._limits = limits
        self._newest_delivery = newest_delivery
        self._exempt = frozenset(exempt)
        # Who waits, by address; whose turn is next comes first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._count = 0
        # Seconds that may be used now, and when that was so.
        self._balance = BURST_SECONDS
        self._counted = perf_counter()
        self._timer: asyncio.Handle | None = None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request in turns. Raises TooManyReadsError."""
        if request.path in self._exempt:
            return await handler(request)
        if self._count >= self._limits.reads_waiting:
            raise TooManyReadsError(limit=self._limits.reads_waiting)
        return await self.run(request.remote or "", _call(handler, request))

    @types.coroutine
    def run(self, address: str, work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Do `work` in turns; gives back what it does."""
        self._spend(HTTP_SECONDS)
        error: BaseException | None = None
        while True:
            if error is None and not self._may_run():
                try:
                    yield from self._wait(address)
                except BaseException as raised:  # noqa: BLE001 - for the work to heed
                    error = raised
            began = perf_counter()
            try:
                awaited = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                return cast("Result", end.value)
            finally:
                self._spend(perf_counter() - began)
            error = None
            try:
                yield awaited
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised

    def _may_run(self) -> bool:
        """Whether nobody waits, and there is time now."""
        if not self._count and self._balance <= 0:
            self._gain()
        return not self._count and self._balance > 0

    def _wait(self, address: str) -> Generator[Any, Any, None]:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        self._count += 1
        self._wake_later()
        yield from turn

    def _spend(self, seconds: float) -> None:
        self._balance -= seconds
        if self._count:
            self._wake_later()

    def _gain(self) -> None:
        """Add the share of the time that has passed."""
        now = perf_counter()
        self._balance = min(BURST_SECONDS, self._balance + SHARE * (now - self._counted))
        self._counted = now

    def _is_delivering(self) -> bool:
        return perf_counter() - self._newest_delivery() < RECENT_SECONDS

    def _wake_later(self) -> None:
        if self._timer is not None:
            return
        self._gain()
        loop = asyncio.get_running_loop()
        if self._balance > 0 or not self._is_delivering():
            # Not at once: the loop looks at its connections first.
            self._timer = loop.call_soon(self._wake)
        else:
            self._timer = loop.call_later(-self._balance / SHARE, self._wake)

    def _wake(self) -> None:
        """Let the next one run: of the address that waited longest for a turn."""
        self._timer = None
        self._gain()
        if not self._is_delivering():
            self._balance = BURST_SECONDS
        elif self._balance <= 0:
            self._wake_later()
            return
        while self._waiting:
            address, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            self._count -= 1
            if turns:
                self._waiting[address] = turns
            if not turn.done():
                turn.set_result(None)
                break


async def _call(handler: Handler, request: web.Request) -> web.StreamResponse:
    return await handler(request)
