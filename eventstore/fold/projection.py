"""A projection is a value: what to fold, into what, and how."""

from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

from eventstore.fold.columns import Column, columns_of, identifier
from eventstore.log.events import Event

State = TypeVar("State", bound=msgspec.Struct)

# The columns of every table of states, besides those of the projection's own.
STATE_COLUMNS = (Column("stream", "text"), Column("position", "bigint"))

_TIMES = (
    Column("recorded_at", "timestamp with time zone"),
    Column("effective_at", "timestamp with time zone"),
)

# The columns of every timeline before those of the projection's own, and the one behind them: which of these the fact
# did not give, null if it gave all.
TIMELINE_COLUMNS = (
    *STATE_COLUMNS,
    *_TIMES,
    Column("effective_is_recorded", "boolean"),
    Column("rank", "smallint"),
    Column("fact", "text"),
)
ABSENT_COLUMN = Column("absent", "text[]", nullable=True)

# Those of postings: before the ones that they are grouped by, and behind them.
POSTING_COLUMNS = (*STATE_COLUMNS, *_TIMES)
AMOUNT_COLUMN = Column("amount", "numeric")

# What becomes of a fact.
Verdict: TypeAlias = Literal["applied", "duplicate", "stale", "tie", "late"]

# What a fact does to its thing, whatever else it says of it.
FactKind: TypeAlias = Literal["change", "creation", "deletion"]


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
    `newest`: all others come before it. `deletes`: it deletes the thing. `after_deletion`: it came after the thing was
    deleted, and leaves it so.
    """

    verdict: Verdict
    effective_at: datetime
    recorded: bool
    order: tuple[int, ...]
    said: int
    newest: bool
    deletes: bool = False
    after_deletion: bool = False


class Placement(msgspec.Struct, frozen=True, gc=False):
    """Where a fact stands among those of its thing, and what it is.

    `effective_at` is the time that it counts at, which is the provider's unless `recorded`: then its event's. Facts of
    one time are ordered by `rank`, then by position. `newest`: all others come before it. `tie`: what another said of
    its time still counts, and it says something else.
    """

    effective_at: datetime
    recorded: bool
    rank: int
    kind: FactKind
    newest: bool = True
    tie: bool = False


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


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A view of what changed over a timeline: an entry for every fact at which `column` or the one `beside` it changed.

    Of `amounts`, with what came or went; `beside` is then their unit, and an amount in another one is another entry. Of
    `words`, from which to which.
    """

    name: str
    kind: Literal["amounts", "words"]
    column: str
    beside: str

    @property
    def columns(self) -> tuple[str, str]:
        """The two."""
        return self.column, self.beside


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """What a projection keeps of every distinct fact, in a row of its own: what the fact gave of these `columns`.

    They are fields of the state and, by the same names, of the facts. `placement(before, after, fact, at)` says where a
    fact stands that `evolve` has just made `after` of; None if it is a repeat.
    """

    columns: tuple[str, ...]
    placement: Callable[[Any, Any, Any, Place], Placement | None]
    changes: Changes | None = None


class Total(msgspec.Struct, frozen=True):
    """What a projection adds up to: the column `amount` of what is not deleted, by the columns `by`.

    With a timeline there are postings, which tell the same of any time.
    """

    amount: str
    by: tuple[str, ...]


class Money(msgspec.Struct, frozen=True):
    """Where a state has money: its columns `amount` and `currency`. `minor`: the amount is in minor units."""

    amount: str
    currency: str
    minor: bool


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

    Lists can be sorted by the fields of `ranges` too, which are numbers, and limited to a range of each; and looked
    through for the words of one of `names`, or the beginning of one of `references`. `secrets` are those by whose exact
    value a thing is found. `effective_at` are the fields of which the first that is not null is the time that the
    newest fact counts at. `money` is the amount of which lists say how large its minor unit is.
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
    ranges: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    effective_at: tuple[str, ...] = ()
    timeline: Timeline | None = None
    total: Total | None = None
    money: Money | None = None

    def __post_init__(self) -> None:
        """Check that names are names, and that columns are columns of the state."""
        if self.version < 1:
            self._refuse(f"version {self.version} is less than 1")
        if not self.handles:
            self._refuse("it handles no fact")
        columns = self.state.__struct_encode_fields__
        self._check_names("state", (self.name, *columns))
        self._check_reserved("state", columns, STATE_COLUMNS)
        columns = self.state.__struct_fields__
        if columns != self.state.__struct_encode_fields__:
            self._refuse("state: a field is renamed, but each column has the name of its field")
        for role, names in {
            "key": (self.key,),
            "tombstone": (self.tombstone,),
            "indexes": self.indexes,
            "tenant": (self.tenant,),
            "ranges": self.ranges,
            "references": self.references,
            "names": self.names,
            "secrets": self.secrets,
            "effective_at": self.effective_at,
            "total.amount": (self.total and self.total.amount,),
            "total.by": self.total.by if self.total else (),
            "money": (self.money.amount, self.money.currency) if self.money else (),
        }.items():
            for name in names:
                if name is not None and name not in columns:
                    self._refuse(f"{role}: {self.state.__name__} has no field {name!r}")
        if self.timeline is not None:
            self._check_timeline(self.timeline)

    def _check_timeline(self, timeline: Timeline) -> None:
        kept = {column.name: column for column in columns_of(self.state)}
        for name in timeline.columns:
            if name not in kept:
                self._refuse(f"timeline: {self.state.__name__} has no field {name!r}")
            if kept[name].secret or kept[name].hidden:
                self._refuse(f"timeline: {name!r} is not for everyone to see")
        self._check_reserved("timeline", timeline.columns, (*TIMELINE_COLUMNS, ABSENT_COLUMN))
        for role, names in {
            "total": (self.total.amount, *self.total.by) if self.total else (),
            "changes": timeline.changes.columns if timeline.changes else (),
        }.items():
            for name in names:
                if name not in timeline.columns:
                    self._refuse(f"{role}: {name!r} is not in the timeline")
        if self.total is not None:
            self._check_reserved("total.by", self.total.by, (*POSTING_COLUMNS, AMOUNT_COLUMN))
        if timeline.changes is not None:
            self._check_names("changes", (timeline.changes.name,))

    def _check_names(self, role: str, names: Iterable[str]) -> None:
        for name in names:
            try:
                identifier(name)
            except ValueError as error:
                self._refuse(f"{role}: {error}")

    def _check_reserved(
        self, role: str, names: Container[str], reserved: tuple[Column, ...]
    ) -> None:
        for column in reserved:
            if column.name in names:
                self._refuse(f"{role}: the name {column.name!r} is reserved")

    def _refuse(self, problem: str) -> NoReturn:
        message = f"projection {self.name!r}: {problem}"
        raise ValueError(message)
