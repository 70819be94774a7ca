"""What a server answers about projections and rebuilds (docs/api.md), as types."""

from datetime import datetime
from typing import Any

import msgspec


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a projection; `error` is why it could not be made live, or does not go on."""

    generation: int
    status: str
    error: str | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a projection stands: what its live generation has folded, and what is wrong with it.

    `generations` are all of them, where one projection was asked for.
    """

    name: str
    generation: int
    status: str
    checkpoint: int
    lag: int
    folded: int
    ignored: int
    quarantined: int
    error: str | None = None
    stuck: bool = False
    stale: bool = False
    advice: str | None = None
    generations: list[Generation] = []


class Standings(msgspec.Struct, frozen=True):
    """All projections."""

    items: list[Standing]


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows two generations have, and how many only one of them has or has otherwise."""

    before: int
    after: int
    added: int
    gone: int
    changed: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of the column `amount`; an item has `before`, `after`, `change` and the columns that `by` names."""

    amount: str
    by: list[str]
    items: list[dict[str, Any]]


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries two generations have, and how many only one of them has."""

    name: str
    before: int
    after: int
    added: int
    gone: int


class Change(msgspec.Struct, frozen=True):
    """A value of a column, in either generation."""

    before: Any = None
    after: Any = None


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A row that differs, and the first event at which the two folds part."""

    stream: str
    changes: dict[str, Change]
    diverged_at: int | None = None


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """How a new generation differs from the live one, both at the same position, unless the live one stands still."""

    position: int
    live_position: int | None = None
    rows: Rows
    columns: dict[str, int] = {}
    totals: Totals | None = None
    journal: Journal | None = None
    sample: list[Example] = []

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        parts = [self.rows.added, self.rows.gone, self.rows.changed]
        if self.journal:
            parts += [self.journal.added, self.journal.gone]
        return not any(parts)


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuild: how far it is, and its diff once it is ready.

    `percent` is from 0 to 100, of the way to `target`, which is null until it is begun.
    """

    name: str
    generation: int
    status: str
    wanted: str | None = None
    target: int | None = None
    percent: float | None = None
    events_per_second: float | None = None
    seconds_left: float | None = None
    checkpoint: int = 0
    lag: int | None = None
    folded: int = 0
    ignored: int = 0
    quarantined: int = 0
    error: str | None = None
    started_at: datetime | None = None
    ready_at: datetime | None = None
    diff: Diff | None = None


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a projection could not fold."""

    position: int
    stream: str
    topic: str
    error: str
    quarantined_at: str


class QuarantinePage(msgspec.Struct, frozen=True):
    """Some of them; `next` is the cursor of those that follow."""

    items: list[Quarantined]
    next: int | str | None = None
