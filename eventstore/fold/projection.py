"""A projection is a value; folding one event is one pure function, used live, in a rebuild and for a history."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec

from eventstore.errors import describe
from eventstore.fold.columns import LONGEST_INDEXED, check_storable
from eventstore.log.events import Event

State = TypeVar("State", bound=msgspec.Struct)

Verdict = Literal["applied", "duplicate", "stale", "quarantined", "ignored"]


class Source(Protocol):
    """Where facts come from: a provider, as the engine sees it."""

    @property
    def topics(self) -> Mapping[str, type[msgspec.Struct]]:
        """The topics it knows, each with the type of fact it carries."""

    @property
    def decode(self) -> Callable[[Event], msgspec.Struct]:
        """Read an event as a fact. Raises whatever it likes when it cannot: the event is quarantined."""

    @property
    def decoding_settings(self) -> object:
        """What of the settings `decode` goes by: other settings, other facts, and so other states."""


class Journal(msgspec.Struct, Generic[State], frozen=True, kw_only=True):
    """A projection's append-only list of what changed when.

    `write(before, after, event)` gives the entry for an event that changed a state, or None if it is not worth one;
    `before` is None for a stream's first. It is pure. `entry` is a Struct whose fields can be given by position: they
    are columns of the journal's table, beside position, stream and recorded_at.
    """

    name: str
    entry: type[msgspec.Struct]
    write: Callable[[State | None, State, Event], msgspec.Struct | None]


class Total(msgspec.Struct, frozen=True):
    """What a projection adds up to, where two generations are compared: the column `amount`, by the columns `by`."""

    amount: str
    by: tuple[str, ...]


class Projection(msgspec.Struct, Generic[State], frozen=True, kw_only=True):
    """What to fold, into what, and how.

    `evolve(state, fact)` gives the state after the fact; `state` is None for a stream's first fact. It is pure, and
    it merges: a field that the fact leaves out keeps its value. It returns **the very object it was given** when the
    fact is stale, that is, older than what the state holds already.

    `state` is a frozen Struct whose fields can be given by position: they are the columns of its table.
    `indexes` are the columns by which the API lets people filter; `tenant` is the one of them that says whose a thing
    is.
    """

    name: str
    version: int
    handles: frozenset[type[msgspec.Struct]]
    state: type[State]
    evolve: Callable[[State | None, Any], State]
    indexes: tuple[str, ...] = ()
    tenant: str | None = None
    journal: Journal[State] | None = None
    total: Total | None = None


class Folded(msgspec.Struct, frozen=True):
    """What one event did: a verdict, the state after it, the error that put it in quarantine, its journal entry."""

    verdict: Verdict
    state: Any
    error: str | None = None
    entry: msgspec.Struct | None = None


def fold(
    projection: Projection[State], sources: Mapping[str, Source], state: State | None, event: Event
) -> Folded:
    """Fold one event into `state`. Never raises: what cannot be folded is quarantined, and the state stays."""
    if not handles(projection, sources, event.provider, event.topic):
        return Folded("ignored", state)
    return fold_handled(projection, sources, state, event)


def fold_handled(
    projection: Projection[State], sources: Mapping[str, Source], state: State | None, event: Event
) -> Folded:
    """Fold an event that is known to concern the projection, as `fold` does."""
    try:
        after = projection.evolve(state, sources[event.provider].decode(event))
        if after is state:
            return Folded("stale", state)
        journal = projection.journal
        entry = None if journal is None else journal.write(state, after, event)
        body = event.body
        # Only an escape brings in what Postgres cannot store, only a long body what is too long.
        if b"\\" in body or len(body) > LONGEST_INDEXED:
            check_storable(after, projection.indexes)
            if entry is not None:
                check_storable(entry)
    except Exception as error:  # noqa: BLE001 - a poison event must not stop the rest
        return Folded("quarantined", state, describe(error))
    return Folded("applied", after, None, entry)


def handles(
    projection: Projection[State], sources: Mapping[str, Source], provider: str, topic: str
) -> bool:
    """Say whether events of this provider and topic concern this projection."""
    source = sources.get(provider)
    return source is not None and source.topics.get(topic) in projection.handles


def handled_topics(projection: Projection[State], sources: Mapping[str, Source]) -> frozenset[str]:
    """Name the topics that concern this projection, each as "provider topic"."""
    return frozenset(
        f"{provider} {topic}"
        for provider, source in sources.items()
        for topic, fact in source.topics.items()
        if fact in projection.handles
    )
