"""Following a rebuild in a server until something is so, also while that server is started again."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import perf_counter
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from commands._answers import Rebuild, Standing
from commands._http import AnsweredError, NoServerError, Server
from eventstore.errors import LoopledgerError

T = TypeVar("T")

# A server that is starting, or a proxy before one, says so.
NOT_NOW = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class Pace(NamedTuple):
    """How often to ask, how often to print a line where there is no bar, how long a server may be away; in seconds."""

    poll: float = 0.25
    line: float = 2.0
    patience: float = 30.0


PACE = Pace()


class FailedError(LoopledgerError):
    """Generation {generation} of {projection} could not be built: {problem}."""


class DiscardedError(LoopledgerError):
    """The rebuild of {projection} is no more: it was discarded, or begun again under another number."""


class PromotedError(LoopledgerError):
    """Generation {generation} of {projection} is live: it was promoted meanwhile."""


class NotRolledBackError(LoopledgerError):
    """{projection} could not be rolled back, generation {generation} is still live: {problem}."""


class UncomparedError(LoopledgerError):
    """Generation {generation} of {projection} is ready, but the server gives no diff of it."""


class UnknownOutcomeError(LoopledgerError):
    """The server went away while it was asked to {action} {projection}, and nothing has changed in {seconds:g} s.
    See `loopledger projections` before you ask again.
    """  # noqa: D205 - one message


class Follower:
    """Asks one server about one projection. `on_look` is shown each answer; None: the server did not answer."""

    def __init__(
        self,
        server: Server,
        projection: str,
        pace: Pace,
        on_look: Callable[[Rebuild | None], None] = lambda _: None,
    ) -> None:
        self._server = server
        self._projection = projection
        self._path = f"/v1/projections/{quote(projection, safe='')}"
        self._pace = pace
        self._on_look = on_look

    async def standing(self) -> Standing:
        """Where the projection stands."""
        return await self._server.get(self._path, Standing)

    async def standing_at_last(self) -> Standing:
        """The same, once the server answers."""
        return await self._patiently(self.standing)

    async def rebuild(self) -> Rebuild | None:
        """Its rebuild, if there is one."""
        return await self._server.find(f"{self._path}/rebuild", Rebuild)

    async def begin(self) -> bool:
        """Begin a rebuild; False if one is under way already."""
        try:
            await self._server.ask("POST", f"{self._path}/rebuild")
        except AnsweredError as error:
            if error.facts["slug"] != "rebuilding":
                raise
            return False
        return True

    async def until_ready(self, live: int) -> Rebuild:
        """Wait until the rebuild is ready; `live` is the generation that was live when it was begun.

        A server that is started again may begin it again, under another number. Raises FailedError, UncomparedError,
        DiscardedError, PromotedError.
        """
        while True:
            rebuild = await self._patiently(self.rebuild)
            if rebuild is None:
                raise await self._gone(live)
            self._heed_failure(rebuild)
            self._on_look(rebuild)
            # One that is to be promoted anyway will be live in a moment.
            if rebuild.status == "ready" and rebuild.wanted is None:
                if rebuild.diff is None:
                    raise UncomparedError(
                        generation=rebuild.generation, projection=self._projection
                    )
                return rebuild
            await asyncio.sleep(self._pace.poll)

    async def promote(self, generation: int) -> None:
        """Make a generation live. Raises AnsweredError, FailedError, DiscardedError.

        Sent again if the server went away over it: it can be promoted once only.
        """

        async def done() -> bool:
            # In this order: what is no rebuild any more is live by now, or was discarded.
            rebuild = await self.rebuild()
            if (await self.standing()).generation == generation:
                return True
            if rebuild is None or rebuild.generation != generation:
                raise DiscardedError(projection=self._projection)
            self._heed_failure(rebuild)
            return False

        await self._ask_until("promote", done)

    async def discard(self, generation: int) -> None:
        """Forget a rebuild. Raises AnsweredError, PromotedError; DiscardedError if there is another in its place."""

        async def done() -> bool:
            rebuild = await self.rebuild()
            if rebuild is None:
                if (await self.standing()).generation == generation:
                    raise PromotedError(generation=generation, projection=self._projection)
                return True
            if rebuild.generation != generation and rebuild.wanted != "discard":
                raise DiscardedError(projection=self._projection)
            return False

        await self._ask_until("discard", done)

    async def roll_back(self, live: int) -> Standing:
        """Make the generation that was live before `live` live again.

        Never sent twice if its outcome is unknown: the second would undo the first. Raises AnsweredError,
        NotRolledBackError, UnknownOutcomeError.
        """
        heard = True
        try:
            await self._server.ask("POST", f"{self._path}/rollback")
        except NoServerError:
            heard = False
        since = perf_counter()
        while True:
            # While it catches up it is a rebuild like any other.
            rebuild = await self._patiently(self.rebuild)
            standing = await self.standing_at_last()
            if standing.generation != live:
                return standing
            if rebuild is not None:
                heard = True
                self._on_look(rebuild)
            elif heard:
                raise self._not_rolled_back(standing)
            elif perf_counter() - since > self._pace.patience:
                raise UnknownOutcomeError(
                    action="roll back", projection=self._projection, seconds=self._pace.patience
                )
            await asyncio.sleep(self._pace.poll)

    async def _ask_until(self, action: str, done: Callable[[], Awaitable[bool]]) -> None:
        asked = False
        since = perf_counter()
        while not await self._patiently(done):
            if asked:
                await asyncio.sleep(self._pace.poll)
                continue
            try:
                await self._server.ask("POST", f"{self._path}/{action}")
                asked = True
            except (NoServerError, AnsweredError) as error:
                if not _may_pass(error) or perf_counter() - since > self._pace.patience:
                    # It may have been done by somebody else, or by ourselves before the server went away.
                    if await self._patiently(done):
                        return
                    raise
                await asyncio.sleep(self._pace.poll)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, or for as long as a server may be away."""
        away_since: float | None = None
        while True:
            try:
                return await ask()
            except (NoServerError, AnsweredError) as error:
                if not _may_pass(error):
                    raise
                away_since = away_since or perf_counter()
                if perf_counter() - away_since > self._pace.patience:
                    raise
            self._on_look(None)
            await asyncio.sleep(self._pace.poll)

    def _heed_failure(self, rebuild: Rebuild) -> None:
        if rebuild.status == "failed":
            raise FailedError(
                generation=rebuild.generation,
                projection=self._projection,
                problem=rebuild.error or "the server's log says why",
            )

    async def _gone(self, live: int) -> LoopledgerError:
        now = (await self.standing_at_last()).generation
        if now == live:
            return DiscardedError(projection=self._projection)
        return PromotedError(generation=now, projection=self._projection)

    def _not_rolled_back(self, standing: Standing) -> NotRolledBackError:
        errors = [each.error for each in standing.generations if each.status == "retired"]
        return NotRolledBackError(
            projection=self._projection,
            generation=standing.generation,
            problem=next((error for error in errors[::-1] if error), "the server's log says why"),
        )


def _may_pass(error: NoServerError | AnsweredError) -> bool:
    return isinstance(error, NoServerError) or error.facts["status"] in NOT_NOW
