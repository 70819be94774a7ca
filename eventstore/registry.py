"""The registry of projections: where each stands, and waiting until it stands further."""

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from eventstore.errors import NotFoldedError
from eventstore.queries import QUERIES

if TYPE_CHECKING:
    from eventstore.database import Database

# Seconds between looks at a checkpoint that another process may move.
LOOK_SECONDS = 0.01


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the live generation of a projection stands. folded + ignored + quarantined = checkpoint.

    `error` is what holds it up, in one line, or None; `stuck`: an event has waited for it for more than 30 s.
    """

    name: str
    generation: int
    status: str
    version: int
    checkpoint: int
    head: int
    lag: int
    stuck: bool
    folded: int
    ignored: int
    quarantined: int
    error: str | None
    updated_at: datetime


class Registry:
    """The registry of one database."""

    def __init__(self, database: "Database") -> None:
        self._database = database
        self._moved: dict[str, asyncio.Event] = {}
        self._checkpoints: dict[str, int] = {}
        self._looks: dict[str, asyncio.Task[int]] = {}

    async def standings(self) -> list[Standing]:
        """Where every projection stands, by name."""
        rows = await self._database.fetch(QUERIES["list_projections"])
        return [Standing(**row) for row in rows]

    async def checkpoint(self, name: str) -> tuple[int, int]:
        """The live generation of a projection and its checkpoint."""
        row = await self._database.fetchrow(QUERIES["live_generation"], name)
        if row is None:
            message = f"projection {name} is not registered"
            raise LookupError(message)
        return row["generation"], row["checkpoint"]

    async def note_error(self, name: str, generation: int, error: str | None) -> None:
        """Tell every process what holds a projection up, or that nothing does any more."""
        await self._database.execute(QUERIES["note_error"], name, generation, error)

    def moved(self, name: str, checkpoint: int) -> None:
        """Take note that a projector of this process moved a checkpoint: who waits for it is woken."""
        self._checkpoints[name] = checkpoint
        if event := self._moved.pop(name, None):
            event.set()

    async def wait_for(self, name: str, position: int, timeout: float) -> None:  # noqa: ASYNC109 - it has its own error
        """Return once projection `name` has folded `position`. Raises NotFoldedError after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if self._checkpoints.get(name, 0) >= position:
            return
        _, checkpoint = await self.checkpoint(name)
        while checkpoint < position:
            if loop.time() >= deadline:
                raise NotFoldedError(projection=name, checkpoint=checkpoint, position=position)
            checkpoint = await self._look(name)

    async def _look(self, name: str) -> int:
        """Look again in a moment, or when told; however many wait, one looks for all."""
        if (look := self._looks.get(name)) is None:
            look = self._looks[name] = asyncio.create_task(self._look_once(name))
        return await asyncio.shield(look)

    async def _look_once(self, name: str) -> int:
        event = self._moved.setdefault(name, asyncio.Event())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await event.wait()
        finally:
            # Who asks from here on wants a look that begins later.
            del self._looks[name]
        _, checkpoint = await self.checkpoint(name)
        return checkpoint
