"""A projection is a value: what to fold, into what, and how."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from eventstore.log.events import Event

State = TypeVar("State", bound=msgspec.Struct)


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
