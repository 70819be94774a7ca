"""Starting, following and ending a rebuild in a server, also across a restart of that server."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from commands._http import TEMPORARY_STATUSES, ApiClient, ErrorResponseError, NoServerError
from eventstore.errors import LoopledgerError
from eventstore.fold.status import Rebuild
from web.api.projections import ProjectionDetails

T = TypeVar("T")


class Pace(NamedTuple):
    """Seconds between two requests, between two lines where there is no bar, and for which a server may be away."""

    poll: float = 0.25
    line: float = 2.0
    patience: float = 30.0


PACE = Pace()


class FailedError(LoopledgerError):
    """Generation {generation} of {projection} could not be built: {problem}."""


class DiscardedError(LoopledgerError):
    """The rebuild of {projection} is gone: it was discarded, or restarted as another generation."""


class PromotedError(LoopledgerError):
    """Generation {generation} of {projection} is live: it was promoted in the meantime."""


class NotRolledBackError(LoopledgerError):
    """{projection} could not be rolled back; generation {generation} is still live: {problem}."""


class NoDiffError(LoopledgerError):
    """Generation {generation} of {projection} is ready, but the server has no diff of it."""


class UnknownOutcomeError(LoopledgerError):
    """The connection to the server was lost during the request to {action} {projection}, and nothing has changed in
    {seconds:g} s. Check `loopledger projections` before you try again.
    """  # noqa: D205 - one message


class RebuildClient:
    """Rebuilds of one projection in one server. `on_poll` gets each response, or None if the server did not respond."""

    def __init__(
        self,
        client: ApiClient,
        projection: str,
        pace: Pace,
        on_poll: Callable[[Rebuild | None], None] = lambda _: None,
    ) -> None:
        self._api = client
        self._projection = projection
        self._path = f"/v1/projections/{quote(projection, safe='')}"
        self._pace = pace
        self._on_poll = on_poll

    async def status(self) -> ProjectionDetails:
        """How far the projection is, and its generations."""
        return await self._api.get(self._path, ProjectionDetails)

    async def status_when_available(self) -> ProjectionDetails:
        """The same, waiting for the server if it is away."""
        return await self._retry_while_away(self.status)

    async def rebuild(self) -> Rebuild | None:
        """Its rebuild, if there is one."""
        return await self._api.find(f"{self._path}/rebuild", Rebuild)

    async def start(self) -> bool:
        """Start a rebuild; False if one is under way already."""
        try:
            await self._api.request("POST", f"{self._path}/rebuild")
        except ErrorResponseError as error:
            if error.facts["slug"] != "rebuilding":
                raise
            return False
        return True

    async def until_ready(self, live: int) -> Rebuild:
        """Wait until the rebuild is ready; `live` is the generation that was live when it was started.

        A server that is restarted may restart it as another generation. Raises FailedError, NoDiffError,
        DiscardedError, PromotedError.
        """
        while True:
            rebuild = await self._retry_while_away(self.rebuild)
            if rebuild is None:
                raise await self._why_gone(live)
            self._raise_if_failed(rebuild)
            self._on_poll(rebuild)
            # A rebuild whose promotion was requested will be live in a moment.
            if rebuild.status == "ready" and rebuild.wanted is None:
                if rebuild.diff is None:
                    raise NoDiffError(generation=rebuild.generation, projection=self._projection)
                return rebuild
            await asyncio.sleep(self._pace.poll)

    async def promote(self, generation: int) -> None:
        """Make a generation live. Raises ErrorResponseError, FailedError, DiscardedError.

        Sent again if the connection is lost meanwhile: a generation can be promoted only once.
        """

        async def done() -> bool:
            # In this order: what is no longer a rebuild is live by now, or was discarded.
            rebuild = await self.rebuild()
            if (await self.status()).generation == generation:
                return True
            if rebuild is None or rebuild.generation != generation:
                raise DiscardedError(projection=self._projection)
            self._raise_if_failed(rebuild)
            return False

        await self._request_until("promote", done)

    async def discard(self, generation: int) -> None:
        """Discard a rebuild. Raises ErrorResponseError, PromotedError; DiscardedError if another took its place."""

        async def done() -> bool:
            rebuild = await self.rebuild()
            if rebuild is None:
                if (await self.status()).generation == generation:
                    raise PromotedError(generation=generation, projection=self._projection)
                return True
            if rebuild.generation != generation and rebuild.wanted != "discard":
                raise DiscardedError(projection=self._projection)
            return False

        await self._request_until("discard", done)

    async def roll_back(self, live: int) -> ProjectionDetails:
        """Make the generation that was live before `live` live again.

        Never sent again if its outcome is unknown: the second would undo the first. Raises ErrorResponseError,
        NotRolledBackError, UnknownOutcomeError.
        """
        accepted = True
        try:
            await self._api.request("POST", f"{self._path}/rollback")
        except NoServerError:
            accepted = False
        since = perf_counter()
        while True:
            # While it catches up it is a rebuild like any other.
            rebuild = await self._retry_while_away(self.rebuild)
            status = await self.status_when_available()
            if status.generation != live:
                return status
            if rebuild is not None:
                accepted = True
                self._on_poll(rebuild)
            elif accepted:
                raise self._not_rolled_back(status)
            elif perf_counter() - since > self._pace.patience:
                raise UnknownOutcomeError(
                    action="roll back", projection=self._projection, seconds=self._pace.patience
                )
            await asyncio.sleep(self._pace.poll)

    async def _request_until(self, action: str, done: Callable[[], Awaitable[bool]]) -> None:
        requested = False
        since = perf_counter()
        while not await self._retry_while_away(done):
            if requested:
                await asyncio.sleep(self._pace.poll)
                continue
            try:
                await self._api.request("POST", f"{self._path}/{action}")
                requested = True
            except (NoServerError, ErrorResponseError) as error:
                if not _is_temporary(error) or perf_counter() - since > self._pace.patience:
                    # Somebody else may have done it, or this request before the connection was lost.
                    if await self._retry_while_away(done):
                        return
                    raise
                await asyncio.sleep(self._pace.poll)

    async def _retry_while_away(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request until there is a response, or for as long as a server may be away."""
        away_since: float | None = None
        while True:
            try:
                return await ask()
            except (NoServerError, ErrorResponseError) as error:
                if not _is_temporary(error):
                    raise
                away_since = away_since or perf_counter()
                if perf_counter() - away_since > self._pace.patience:
                    raise
            self._on_poll(None)
            await asyncio.sleep(self._pace.poll)

    def _raise_if_failed(self, rebuild: Rebuild) -> None:
        if rebuild.status == "failed":
            raise FailedError(
                generation=rebuild.generation,
                projection=self._projection,
                problem=rebuild.error or "the server's log says why",
            )

    async def _why_gone(self, live: int) -> LoopledgerError:
        now = (await self.status_when_available()).generation
        if now == live:
            return DiscardedError(projection=self._projection)
        return PromotedError(generation=now, projection=self._projection)

    def _not_rolled_back(self, status: ProjectionDetails) -> NotRolledBackError:
        errors = [each.error for each in status.generations if each.status == "retired"]
        return NotRolledBackError(
            projection=self._projection,
            generation=status.generation,
            problem=next((error for error in errors[::-1] if error), "the server's log says why"),
        )


def _is_temporary(error: NoServerError | ErrorResponseError) -> bool:
    return isinstance(error, NoServerError) or error.facts["status"] in TEMPORARY_STATUSES
