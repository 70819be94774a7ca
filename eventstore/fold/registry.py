"""The registry of projections: how far each generation is, what it is asked to do, and waiting until it is further."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from eventstore.errors import (
    NotFoldedError,
    NothingRetiredError,
    NotReadyError,
    NotSetUpError,
    RebuildingError,
)
from eventstore.fold.failures import Failing
from eventstore.fold.queries import QUERIES
from eventstore.fold.status import REBUILDING, Diff, GenerationStatus, ProjectionStatus, Rebuild
from eventstore.tasks import start_for_all

if TYPE_CHECKING:
    from asyncpg import Record

    from eventstore.postgres.database import Database

# Seconds between reads of a checkpoint that another process may move.
POLL_SECONDS = 0.01


class Registry:
    """The registry of one database. `fingerprints` are of the code of this process, by projection."""

    def __init__(
        self, database: "Database", fingerprints: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._database = database
        self._fingerprints = fingerprints
        # The same as JSON.
        self.fingerprints = msgspec.json.encode(dict(fingerprints)).decode()
        self._moved: dict[str, asyncio.Event] = {}
        self._checkpoints: dict[str, int] = {}
        self._reading: dict[str, asyncio.Task[int]] = {}

    async def statuses(self, name: str | None = None) -> dict[str, ProjectionStatus]:
        """The status of every projection, or of one, by its name."""
        found: dict[str, ProjectionStatus] = {}
        for row in await self._database.fetch(QUERIES["list_generations"], name):
            entry = found.get(row["name"], ProjectionStatus([], None))
            entry.generations.append(self._generation_status(row))
            if row["status"] in REBUILDING:
                entry = ProjectionStatus(entry.generations, _rebuild(row))
            found[row["name"]] = entry
        return found

    def _generation_status(self, row: "Record") -> GenerationStatus:
        current = self._fingerprints.get(row["name"])
        return GenerationStatus(
            stale=current is not None and any(one != current for one in row["fingerprints"]),
            **{name: row[name] for name in GenerationStatus.__struct_fields__ if name != "stale"},
        )

    async def read_checkpoint(self, name: str, generation: int) -> tuple[int, Failing]:
        """The checkpoint of a generation, and the failures in a row that end at it. Raises LookupError."""
        row = await self._database.fetchrow(QUERIES["read_checkpoint"], name, generation)
        if row is None:
            message = f"generation {generation} of {name} is not registered"
            raise LookupError(message)
        failing = msgspec.json.decode(row["failing"], type=dict[str, list[str]])
        return row["checkpoint"], failing

    async def live_checkpoint(self, name: str) -> int:
        """The checkpoint of the live generation of a projection. Raises NotSetUpError."""
        row = await self._database.fetchrow(QUERIES["live_generation"], name)
        if row is None:
            raise NotSetUpError(projection=name)
        checkpoint: int = row["checkpoint"]
        return checkpoint

    async def record_fingerprint(self, name: str, generation: int, fingerprint: str) -> None:
        """Record which code folds a generation."""
        await self._database.execute(QUERIES["record_fingerprint"], name, generation, fingerprint)

    async def record_error(self, name: str, generation: int, error: str | None) -> None:
        """Show every process what holds a generation up, or that nothing does any more."""
        await self._database.execute(QUERIES["record_error"], name, generation, error)

    async def request_rebuild(self, name: str, *, promote: bool = False) -> None:
        """Ask for a new generation, to be promoted as soon as it is ready if `promote`. Raises RebuildingError."""
        wanted = "promote" if promote else None
        async with self._database.transaction() as connection:
            if await connection.fetchval(QUERIES["request_rebuild"], name, wanted) is None:
                raise await self._rebuilding_error(name)

    async def request_promotion(self, name: str) -> None:
        """Ask for the generation that is ready to be made live. Raises NotReadyError."""
        if await self._database.fetchval(QUERIES["request_promotion"], name) is None:
            raise NotReadyError(projection=name)

    async def request_discard(self, name: str) -> bool:
        """Ask for the rebuild under way to be discarded; False if there is none."""
        return await self._database.fetchval(QUERIES["request_discard"], name) is not None

    async def request_rollback(self, name: str) -> None:
        """Ask for the newest retired generation to be made live again. Raises RebuildingError, NothingRetiredError."""
        try:
            if await self._database.fetchval(QUERIES["request_rollback"], name) is None:
                raise NothingRetiredError(projection=name)
        except asyncpg.UniqueViolationError:
            raise await self._rebuilding_error(name) from None

    async def _rebuilding_error(self, name: str) -> RebuildingError:
        found = await self.statuses(name)
        if name not in found:
            raise NotSetUpError(projection=name)
        rebuild = found[name].rebuild
        return RebuildingError(
            projection=name,
            generation=rebuild.generation if rebuild else 0,
            progress=rebuild.status if rebuild else "being changed",
        )

    def on_checkpoint(self, name: str, checkpoint: int) -> None:
        """Wake those who wait for this projection: a projector of this process has moved the live checkpoint."""
        self._checkpoints[name] = checkpoint
        if event := self._moved.pop(name, None):
            event.set()

    async def wait_for(self, name: str, position: int, timeout: float) -> None:  # noqa: ASYNC109 - it has its own error
        """Return once projection `name` has folded `position`. Raises NotFoldedError after `timeout` seconds.

        NotSetUpError if it is not there at all.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if self._checkpoints.get(name, 0) >= position:
            return
        checkpoint = await self.live_checkpoint(name)
        while checkpoint < position:
            if loop.time() >= deadline:
                raise await self._not_folded_error(name, checkpoint, position)
            checkpoint = await self._next_checkpoint(name)

    async def _not_folded_error(self, name: str, checkpoint: int, position: int) -> NotFoldedError:
        found = (await self.statuses(name)).get(name)
        # It may be that nothing has that position yet.
        head = found.generations[0].head if found else checkpoint
        return NotFoldedError(projection=name, checkpoint=checkpoint, position=position, head=head)

    async def _next_checkpoint(self, name: str) -> int:
        """The checkpoint a moment from now, or once it has moved; however many wait, it is read once for all."""
        if (reading := self._reading.get(name)) is None:
            reading = self._reading[name] = start_for_all(
                self._read_soon(name), f"checkpoint-{name}"
            )
        return await asyncio.shield(reading)

    async def _read_soon(self, name: str) -> int:
        event = self._moved.setdefault(name, asyncio.Event())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await event.wait()
        finally:
            # Whoever asks from here on needs one that is read later.
            del self._reading[name]
        return await self.live_checkpoint(name)


def _rebuild(row: "Record") -> Rebuild:
    # A retired generation is not built again; a build that has not been started has no target.
    target, building = row["target"], row["status"] == "building"
    rate = 0 if target is None else row["built"] / max(row["seconds"], 0.001)
    left = round((target - row["built"]) / rate) if building and rate else None
    share = row["built"] / target if target else 0.0
    taken = set(Rebuild.__struct_fields__) & set(row.keys()) - {"diff"}
    return Rebuild(
        percent=round(100 * share, 1) if building else 100.0,
        events_per_second=round(rate),
        seconds_left=left,
        started_at=row["created_at"],
        diff=None if row["diff"] is None else msgspec.json.decode(row["diff"], type=Diff),
        **{name: row[name] for name in taken},
    )
