"""The same log folded twice over: by projectors over Postgres, and in memory."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from eventstore.fold.columns import shown_columns_of
from eventstore.fold.folding import fold
from eventstore.fold.projection import Projection
from eventstore.fold.projector import Projector
from eventstore.fold.refiling import find_stream
from eventstore.fold.registry import Registry
from eventstore.fold.status import GenerationStatus
from eventstore.limits import Limits
from eventstore.log.events import Event, NewEvent
from eventstore.postgres.database import Database
from projections import load_projections
from tests.conftest import Cluster
from tests.support.generated_deliveries import PROVIDERS
from tests.support.log import Log
from tests.support.reference_model import Json

L = TypeVar("L", bound="Live")

PROJECTIONS = load_projections()


@dataclass
class Folded:
    """The states of a projection, and what became of each position."""

    states: Mapping[str, Json]
    ignored: set[int]
    quarantined: set[int]


def shown(state: msgspec.Struct) -> Json:
    """The fields of a state that people see."""
    return {column.name: getattr(state, column.name) for column in shown_columns_of(type(state))}


def folded(
    projection: Projection[Any], log: Sequence[Event], refused: set[int] | None = None
) -> Folded:
    """Fold a log, but for the positions that the database refused."""
    states: dict[str, msgspec.Struct] = {}
    found = Folded({}, set(), set())
    for event in log:
        stream = find_stream(PROVIDERS, event)
        before = states.get(stream)
        one = fold(projection, PROVIDERS, before, event)
        verdict, state = one.verdict, one.state
        if verdict == "ignored":
            found.ignored.add(event.position)
        elif verdict == "quarantined" or event.position in (refused or ()):
            found.quarantined.add(event.position)
        else:
            states[stream] = state
    found.states = {stream: shown(state) for stream, state in states.items()}
    return found


class Live:
    """A log and its projectors at work, in a loop that stands still between examples."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        # Small folds, so that an example is spread over several, and states that have to be read again.
        limits = Limits(poll_seconds=0.05, fold_events=3, fold_streams=1)
        self.run = runner.run
        self.numbers = itertools.count(1)
        self.database = database
        self.log = Log(database, limits)
        self.registry = Registry(database)
        self.projectors = [
            Projector(
                projection,
                sources=PROVIDERS,
                database=database,
                reader=self.log.reader,
                head=self.log.head,
                registry=self.registry,
                limits=limits,
            )
            for projection in PROJECTIONS.values()
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to append and to fold."""
        await self.log.start()
        for projector in self.projectors:
            await projector.set_up()
            self._tasks.append(asyncio.create_task(projector.run()))

    async def stop(self) -> None:
        """Stop both."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.log.stop()

    async def append(self, events: Sequence[NewEvent], chunk: int) -> list[Event]:
        """Append, `chunk` at once; give back what is on record of it, once every projector has folded it."""
        positions: list[int] = []
        for first in range(0, len(events), chunk):
            batch = events[first : first + chunk]
            appended = await asyncio.gather(*map(self.log.appender.append, batch))
            positions += [one.position for one in appended]
        for name in PROJECTIONS:
            await self.registry.wait_for(name, positions[-1], timeout=10)
        log = (await self.log.reader.read_slice(positions[0] - 1, len(events), None)).events
        assert [event.position for event in log] == positions
        assert [event.event_id for event in log] == [event.event_id for event in events]
        return log

    async def states(self, name: str, log: Sequence[Event]) -> dict[str, Json]:
        """The states of the streams that these events are or belong in, as anyone with SQL sees them."""
        streams = list({s for e in log for s in (e.stream, find_stream(PROVIDERS, e))})
        rows = await self.database.fetch(
            f"SELECT * FROM projected.{name} WHERE stream = ANY($1)",  # noqa: S608 - a name of ours
            streams,
        )
        found = {row["stream"]: dict(row) for row in rows}
        # A table has more columns than people see.
        hidden = {"stream", "position", "effective_at", "merge"}
        return {
            stream: {field: state[field] for field in state if field not in hidden}
            for stream, state in found.items()
        }

    async def quarantined(self, name: str, log: Sequence[Event]) -> set[int]:
        """Which of these events a projection holds in quarantine."""
        rows = await self.database.fetch(
            "SELECT position FROM quarantine WHERE projection = $1 AND position = ANY($2)",
            name,
            [event.position for event in log],
        )
        return {row["position"] for row in rows}

    async def statuses(self) -> dict[str, GenerationStatus]:
        """Where every projection stands: complete, and at the head."""
        found = await self.registry.statuses()
        statuses = {name: each.live for name, each in found.items()}
        for one in statuses.values():
            assert one.folded + one.ignored + one.quarantined == one.checkpoint == one.head
        return statuses


@contextmanager
def at_work(kind: Callable[[asyncio.Runner, Database], L], cluster: Cluster) -> Iterator[L]:
    """A `Live`, or one that can do more, over a database of its own."""
    with asyncio.Runner() as runner:
        databases = cluster.database()
        database = Database(runner.run(databases.__aenter__()), pool_connections=5)
        runner.run(database.open())
        found = kind(runner, database)
        runner.run(found.start())
        yield found
        runner.run(found.stop())
        runner.run(database.close())
        runner.run(databases.__aexit__(None, None, None))
