"""A projection is a value: what to fold, into what, and how."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

from eventstore.fold.columns import Column, identifier
from eventstore.log.events import Event

State = TypeVar("State", bound=msgspec.Struct)

# The columns of every table of states, and of every journal, besides those of the projection's own.
STATE_COLUMNS = (Column("stream", "text"), Column("position", "bigint"))
JOURNAL_COLUMNS = (*STATE_COLUMNS, Column("recorded_at", "timestamp with time zone"))


# What becomes of a fact.
Verdict: TypeAlias = Literal["applied", "duplicate", "stale", "tie", "late"]


class Place(Protocol):
    """Where an event stands in the log."""

    @property
    def position(self) -> int:
        """Its position."""

    @property
    def recorded_at(self) -> datetime:
        """When it was recorded."""


class Judgement(msgspec.Struct, frozen=True):
    """What becomes of a fact in a state, and why.

    `effective_at` is the time that it counts at, which is the provider's unless `recorded`: then its event's. `order`
    can be compared with that of other facts of the thing; two of one time that say the same have the same `said`.
    `deletes`: it deletes the thing. `after_deletion`: it came after the thing was deleted, and leaves it so.
    """

    verdict: Verdict
    effective_at: datetime
    recorded: bool
    order: tuple[int, ...]
    said: int
    deletes: bool = False
    after_deletion: bool = False


class Source(Protocol):
    """Where facts come from: a provider, as the engine sees it."""

    @property
    def topics(self) -> Mapping[str, type[msgspec.Struct]]:
        """The topics it knows, each with the type of fact it carries."""

    @property
    def decode(self) -> Callable[[Event], msgspec.Struct]:
        """Read an event as a fact. Raises whatever it likes when it cannot: the event is quarantined."""

    @property
    def stream_of(self) -> Callable[[Event, Any], str]:
        """Name the stream that an event's fact belongs to. It may raise if the fact is None: it could not be read."""

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
    """What to fold, into what, and how. Raises ValueError for one that contradicts itself.

    `evolve(state, fact, at)` gives the state after the fact of the event `at`; `state` is None for a stream's first
    fact. It is pure, and it merges: a field that the fact leaves out keeps its value. It returns **the very object it
    was given** when the fact changes nothing, because it is a repeat or older than what the state holds already.
    `judge`, of the same arguments, says what becomes of the fact, by the same rules.

    `state` is a frozen Struct whose fields can be given by position: they are the columns of its table. Of them,
    `key` is the text by which people ask for a thing, its id; `tombstone`, if there is one, is null unless the thing is
    deleted; `indexes` are those by which the API lets people filter; `tenant` is the one of them that says whose a
    thing is.
    """

    name: str
    version: int
    handles: frozenset[type[msgspec.Struct]]
    state: type[State]
    key: str
    evolve: Callable[[State | None, Any, Place], State]
    judge: Callable[[State | None, Any, Place], Judgement] | None = None
    tombstone: str | None = None
    indexes: tuple[str, ...] = ()
    tenant: str | None = None
    journal: Journal[State] | None = None
    total: Total | None = None

    def __post_init__(self) -> None:
        """Check that names are names, and that columns are columns of the state."""
        if self.version < 1:
            self._refuse(f"version {self.version} is less than 1")
        if not self.handles:
            self._refuse("it handles no fact")
        self._check_names("state", self.name, self.state, STATE_COLUMNS)
        if (journal := self.journal) is not None:
            self._check_names("journal", journal.name, journal.entry, JOURNAL_COLUMNS)
        columns = self.state.__struct_fields__
        if columns != self.state.__struct_encode_fields__:
            self._refuse("state: a field is renamed, but each column has the name of its field")
        for role, names in {
            "key": (self.key,),
            "tombstone": (self.tombstone,),
            "indexes": self.indexes,
            "tenant": (self.tenant,),
            "total.amount": (self.total and self.total.amount,),
            "total.by": self.total.by if self.total else (),
        }.items():
            for name in names:
                if name is not None and name not in columns:
                    self._refuse(f"{role}: {self.state.__name__} has no field {name!r}")

    def _check_names(
        self, role: str, name: str, row: type[msgspec.Struct], reserved: tuple[Column, ...]
    ) -> None:
        fields = row.__struct_encode_fields__
        for each in (name, *fields):
            try:
                identifier(each)
            except ValueError as error:
                self._refuse(f"{role}: {error}")
        for column in reserved:
            if column.name in fields:
                self._refuse(f"{role}: the name {column.name!r} is reserved")

    def _refuse(self, problem: str) -> NoReturn:
        message = f"projection {self.name!r}: {problem}"
        raise ValueError(message)
