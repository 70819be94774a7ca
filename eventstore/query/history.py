"""Why a state is what it is: its stream, event by event, with what each one did."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, cast

import msgspec

from eventstore.errors import NotSetUpError
from eventstore.fold.columns import mask, shown_columns_of
from eventstore.fold.projection import Source
from eventstore.fold.refiling import read_thing
from eventstore.fold.status import Change
from eventstore.log.events import Event
from eventstore.log.reader import read_stream
from eventstore.log.streams import stream_part
from eventstore.query.history_fold import HistoryFold, Step
from eventstore.query.known_histories import KnownHistories, KnownHistory
from eventstore.query.queries import QUERIES
from eventstore.query.states import States, ambiguous
from eventstore.query.visibility import Visibility
from eventstore.tasks import Pacer

if TYPE_CHECKING:
    from eventstore.fold.quarantine import Quarantine
    from eventstore.limits import Limits
    from eventstore.postgres.database import Database

encode = msgspec.json.Encoder().encode


class HistoryPage(msgspec.Struct, frozen=True):
    """One page of a history: its `items`, each a Step as JSON. `next` is the position that the next page is after."""

    items: list[bytes]
    next: int | None

    @property
    def body(self) -> bytes:
        """The same as JSON."""
        return b'{"items":[%b],"next":%b}\n' % (b",".join(self.items), encode(self.next))


class History:
    """The histories of the things of one projection. `known` are those of all projections."""

    def __init__(
        self,
        states: States,
        quarantine: "Quarantine",
        sources: Mapping[str, Source],
        database: "Database",
        limits: "Limits",
        known: KnownHistories,
    ) -> None:
        self._states = states
        self._projection = states.projection
        self._quarantine = quarantine
        self._sources = sources
        self._database = database
        self._limits = limits
        self._known = known
        self._secrets = {c.name for c in shown_columns_of(self._projection.state) if c.secret}

    async def page(
        self,
        visibility: Visibility,
        id_: str,
        owner: Mapping[str, str],
        after: int,
        limit: int,
        at_least: int = 0,
    ) -> HistoryPage:
        """What the events of one thing did, at most `limit` of those after position `after`.

        `owner` and `at_least` are as for States.find. Raises NotFoundError, AmbiguousError, NotFoldedError,
        NotSetUpError.
        """
        await self._states.wait_for(at_least)
        stream = await self._find_stream(visibility, id_, owner)
        name, revealed = self._projection.name, visibility.revealed
        known = self._known.find(name, stream)
        through = 0 if known is None else known.through
        status = await self._database.fetchrow(QUERIES["history_status"], name, stream, through)
        if status is None:
            raise NotSetUpError(projection=name)
        generation, checkpoint, is_refiled = status
        if known is None or known.generation != generation:
            folding = HistoryFold(self._projection, self._sources, stream)
            known, is_refiled = KnownHistory(generation, folding), True
            self._known.keep(name, stream, known)
        steps = known.steps(after, limit + 1, revealed=revealed)
        if len(steps) <= limit:
            async with known.lock:
                try:
                    further = await self._read_on(
                        known, stream, checkpoint, after, limit + 1, is_refiled=is_refiled
                    )
                finally:
                    self._known.keep(name, stream, known)
            steps = known.steps(after, limit + 1, revealed=revealed)
            steps += [(position, told[revealed]) for position, told in further]
        following = steps[limit - 1][0] if len(steps) > limit else None
        return HistoryPage([told for _, told in steps[:limit]], following)

    async def _read_on(
        self,
        known: KnownHistory,
        stream: str,
        checkpoint: int,
        after: int,
        limit: int,
        *,
        is_refiled: bool,
    ) -> list[tuple[int, tuple[bytes, bytes]]]:
        """Go on with what is known until there are `limit` steps after a position, or no more events.

        Gives back those that are not known for good, masked and revealed: of events that are not folded yet.
        """
        further: list[tuple[int, tuple[bytes, bytes]]] = []
        left = limit - len(known.steps(after, limit, revealed=False))
        folding, quarantined, pacer = known.folding, None, Pacer()
        async for event in self._events(known, stream, is_refiled=is_refiled):
            if left <= 0:
                break
            if quarantined is None:
                quarantined = await self._quarantine.errors(
                    self._projection.name, known.generation, stream
                )
            await pacer.pause()
            if folding is known.folding and (
                event.position > checkpoint or known.size > self._known.longest_bytes
            ):
                folding = folding.fork()
            step = folding.step(event, quarantined)
            if folding is known.folding:
                known.through = event.position
            if step is None:
                continue
            told = self._told(step)
            if folding is known.folding:
                known.add(event.position, *told)
            elif event.position > after:
                further.append((event.position, told))
            left -= event.position > after
        return further

    async def _events(
        self, known: KnownHistory, stream: str, *, is_refiled: bool
    ) -> AsyncIterator[Event]:
        """The events of a thing that are not known; `is_refiled`: some may be on record in other streams."""
        name, after = self._projection.name, known.through
        events = (
            read_thing(self._database, name, known.generation, stream, self._limits, after)
            if is_refiled
            else read_stream(self._database, stream, self._limits, after)
        )
        async for event in events:
            yield event

    def _told(self, step: Step) -> tuple[bytes, bytes]:
        """A step as JSON, masked and revealed."""
        revealed = encode(step)
        if self._secrets.isdisjoint(step.changes):
            return revealed, revealed
        changes = {
            name: Change(mask(change.before), mask(change.after))
            if name in self._secrets
            else change
            for name, change in step.changes.items()
        }
        return encode(msgspec.structs.replace(step, changes=changes)), revealed

    async def _find_stream(self, visibility: Visibility, id_: str, owner: Mapping[str, str]) -> str:
        """The one stream of the thing; of some there are only events in quarantine."""
        streams = await self._states.find_streams(visibility, id_, owner)
        if not streams:
            streams = await self._find_quarantined_streams(visibility, id_, owner)
        if not streams:
            raise self._states.not_found(id_)
        if len(streams) > 1:
            owners = (cast("tuple[str, str]", s.split("/")[:2]) for s in sorted(streams))
            raise ambiguous(id_, owners)
        return streams.pop()

    async def _find_quarantined_streams(
        self, visibility: Visibility, id_: str, owner: Mapping[str, str]
    ) -> set[str]:
        shown = visibility.merchants and {stream_part(one) for one in visibility.merchants}
        places = {"provider": 0, "merchant_id": 1}
        streams = await self._quarantine.streams(self._projection.name, stream_part(id_))
        return {
            stream
            for stream in streams
            if (shown is None or stream.split("/")[1] in shown)
            and all(
                stream.split("/")[places[name]] == stream_part(value)
                for name, value in owner.items()
            )
        }
