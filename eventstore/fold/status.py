"""What the registry says of projections and their rebuilds, as the API answers it."""

from datetime import datetime
from typing import Any, Literal

import msgspec

Status = Literal["building", "catching-up", "ready", "live", "retired", "failed"]

# What a generation is while it is being rebuilt, and until it is promoted or discarded.
REBUILDING = frozenset({"building", "catching-up", "ready", "failed"})


class GenerationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a generation of a projection has folded the log. folded + ignored + quarantined = checkpoint.

    `name` is the projection's, `version` its own number; `generation` is counted from 1. `status` says what becomes of
    the generation. `checkpoint` is the position up to which it has folded: `folded`, `ignored` and `quarantined` are
    the numbers of events up to there that it folded, that do not concern it, that it could not fold. `lag` is how many
    events it is behind `head`. `error` is what holds it up, in one line, or null; `stuck`: an event has waited for it
    for more than 30 s; `stale`: other code folded it than this process would. `created_at`, `updated_at` and
    `retired_at`: when it was begun, moved last, and ceased to be live.
    """

    name: str
    generation: int
    status: Status
    version: int
    checkpoint: int
    head: int
    lag: int
    stuck: bool
    stale: bool
    folded: int
    ignored: int
    quarantined: int
    error: str | None
    created_at: datetime
    updated_at: datetime
    retired_at: datetime | None


class Change(msgspec.Struct, frozen=True):
    """The value of a column `before` and `after`; that of a secret one is masked."""

    before: Any
    after: Any


class Rows(msgspec.Struct, frozen=True):
    """How many states there are `before` and `after`, and how many are `added`, `gone` or `changed`."""

    before: int
    after: int
    added: int
    gone: int
    changed: int


class TotalChange(msgspec.Struct, frozen=True):
    """What the things that are not deleted are worth: sums of the column `amount`, in groups.

    Each of `items` has the columns `by`, and `before`, `after` and `change`.
    """

    amount: str
    by: tuple[str, ...]
    items: list[dict[str, Any]]


class TableChange(msgspec.Struct, frozen=True):
    """How many rows the tables `name` have `before` and `after`, and how many are `added`, `gone` or `changed`."""

    name: str
    before: int
    after: int
    added: int
    gone: int
    changed: int


class ChangedRow(msgspec.Struct, frozen=True):
    """One state that differs: its `stream`, and `changes` by column.

    `diverged_at` is the position of the first event at which the two folds part, if that can be said.
    """

    stream: str
    diverged_at: int | None
    changes: dict[str, Change]


class Diff(msgspec.Struct, frozen=True):
    """How a new generation at `position` differs from the live one at `live_position`.

    The two are equal, unless the live one stands still. `rows` counts the states; `columns`: of the changed ones, how
    many differ in each. `totals`, `timeline` and `postings` are null for a projection that has none. `sample`: some of
    the states that differ. `refiled`: how many events each folds in other streams than those on record.
    """

    position: int
    live_position: int
    rows: Rows
    columns: dict[str, int]
    totals: TotalChange | None
    sample: list[ChangedRow]
    timeline: TableChange | None = None
    postings: TableChange | None = None
    refiled: Change = Change(0, 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        counts = [self.rows.added, self.rows.gone, self.rows.changed]
        for table in (self.timeline, self.postings):
            if table is not None:
                counts += [table.added, table.gone, table.changed]
        return not any(counts)


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """How far a generation is that is to be made live.

    `name`, `generation`, `status`, `checkpoint`, `lag`, `folded`, `ignored`, `quarantined` and `error` are as in
    GenerationStatus. `wanted` is what was asked for, to be done as soon as it can be; `waiting`: what its promotion
    waits for, in one line, or null. `target` is the position up to which it is built before it follows the log, null
    until it is begun; `percent`, from 0 to 100, is of the way there, at `events_per_second`, with about `seconds_left`
    to go. `started_at`, `ready_at`: when it was begun, and ready. `diff` is there once it is ready, unless it was live
    before.
    """

    name: str
    generation: int
    status: Status
    wanted: Literal["promote", "discard"] | None
    target: int | None
    percent: float
    events_per_second: int
    seconds_left: int | None
    checkpoint: int
    lag: int
    folded: int
    ignored: int
    quarantined: int
    error: str | None
    started_at: datetime
    ready_at: datetime | None
    diff: Diff | None
    waiting: str | None = None


class ProjectionStatus(msgspec.Struct, frozen=True):
    """What the registry holds of one projection: every generation, and the rebuild under way."""

    generations: list[GenerationStatus]
    rebuild: Rebuild | None

    @property
    def live(self) -> GenerationStatus:
        """The generation whose states are answered."""
        return next(one for one in self.generations if one.status == "live")
