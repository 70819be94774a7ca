"""Shorter ways to the states that `projections/merging.py` makes, for the usual facts: a rebuild does little else.

Mostly facts come in order and give the same fields as the one before: `FastMerger.in_order` is that case in straight
lines. `FastMerger.merge` is every other case. None of them has a rule of its own: a test holds them to `Merger.fold`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET

from eventstore.fold.projection import FactKind, Judgement, Place, Placement
from projections.known import (
    DELETION_RANK,
    MEMO,
    PREFIX_LENGTH,
    PREFIXES,
    PROGRAM_ID,
    bits,
    digest,
    microseconds,
)
from projections.merging import Merger
from projections.tracked import Tracked
from providers.facts import Fact

S = TypeVar("S", bound=Tracked)

# Where in a state its `merge` is, which its own fields follow.
_MERGE: Final = Tracked.__struct_fields__.index("merge")

TrackedFields: TypeAlias = tuple[
    str,
    str,
    str | None,
    str,
    datetime | None,
    datetime | None,
    datetime | None,
    datetime | None,
    str | None,
]


class FastMerger(Merger[S]):
    """Merges as `Merger` does, by the shortest way that fits. The arguments are those of `Merger`."""

    def __init__(
        self, state: type[S], ranked: str | None = None, ranks: Mapping[Any, int] | None = None
    ) -> None:
        super().__init__(state, ranked, ranks)
        # What was merged last: the state, the fact, and the judgement, unless it was plain that nothing changes.
        self._merged: tuple[S | None, Fact, Judgement | None] | None = None

    def in_order(  # noqa: C901 - straight lines
        self, old: S, fact: Fact, missing: int, at: Place
    ) -> TrackedFields | None:
        """The fields of `Tracked` after a fact that is newer than all before, in their order; None in any other case.

        `missing` is the mask of its own fields that the fact leaves out. A state without an id is that before the first
        fact.
        """
        program_id, created_at, updated_at = fact.program_id, fact.created_at, fact.updated_at
        if program_id is None:
            missing |= 1
            program_id = old.program_id
        if created_at is UNSET:
            missing |= 2
            created_at = old.created_at
        time, effective_at = updated_at, None
        if time is None:
            missing |= 4
            updated_at = old.updated_at
            time = effective_at = at.recorded_at
        if fact.created or fact.deleted or not old.id:
            if fact.deleted or old.id:
                return None
            merge = self._first(fact, missing, time)
        else:
            newest = old.effective_at or old.updated_at
            if newest is None or time <= newest:
                return None
            merge = old.merge
            if merge is None:
                if missing:
                    merge = self._with_older(old, 0, missing, newest)
            elif not merge.startswith(PREFIXES[missing]):
                if len(merge) != PREFIX_LENGTH:
                    return None
                merge = self._with_older(old, int(merge[1:], 16), missing, newest)
        return (
            old.provider or fact.provider,
            old.merchant_id or fact.merchant_id,
            program_id,
            old.id or fact.id,
            created_at,
            updated_at,
            old.deleted_at,
            effective_at,
            merge,
        )

    def is_repeat(self, old: S, after: S) -> bool:
        """Whether a fact without a time may say what the newest one said: for `merge` to decide."""
        values = msgspec.structs.astuple
        return old.effective_at is not None and values(old)[_MERGE:] == values(after)[_MERGE:]

    def merge(self, state: S | None, fact: Fact, at: Place) -> S:
        """The state after a fact, whenever it comes, whatever it leaves out; `state` itself if it changes nothing."""
        if state is not None:
            if self._changes_nothing(state, fact):
                self._merged = state, fact, None
                return state
            if fact.deleted and (deleted := self._deleted(state, fact, at)) is not None:
                return deleted
        after, judgement = self.fold(state, fact, at)
        self._merged = state, fact, judgement
        return after

    def placement(self, before: S | None, after: S, fact: Fact, at: Place) -> Placement | None:
        """Where a fact stands that was just merged, between the states before and after it; None if it is a repeat."""
        time, rank = fact.updated_at, 0
        kind: FactKind = "creation" if fact.created else "change"
        if fact.deleted:
            time, kind, rank = fact.deleted_by or fact.time, "deletion", DELETION_RANK
        elif self._ranks:
            rank = self._ranks.get(getattr(fact, self._ranked_by), 0)
        newest = None if before is None else before.effective_at or before.updated_at
        effective_at = time or at.recorded_at
        if after is not before and (before is None or (newest and effective_at > newest)):
            return Placement(effective_at, time is None, rank, kind)
        judgement = None
        if (merged := self._merged) is not None and merged[0] is before and merged[1] is fact:
            judgement = merged[2]
            if judgement is None and time is not None:
                # It changes nothing, so it says what the newest one said, or is older.
                if time == newest:
                    return None
                return Placement(time, False, rank, kind, newest=False)  # noqa: FBT003 - in straight lines
        if judgement is None:
            judgement = self.judge(before, fact, at)
        if judgement.verdict == "duplicate":
            return None
        return Placement(
            judgement.effective_at,
            judgement.recorded,
            judgement.order[1],
            kind,
            judgement.newest,
            judgement.verdict == "tie",
        )

    def _changes_nothing(self, state: S, fact: Fact) -> bool:
        """Whether a fact repeats the newest one, or is older and gives nothing else; some of these go the long way."""
        time, newest, merge = fact.updated_at, state.effective_at or state.updated_at, state.merge
        if time is None or newest is None or time > newest or fact.deleted:
            return False
        before = 0
        if fact.created:
            # The first fact's repeat, if it is one.
            before = 0 if merge is None else int(merge[1:PREFIX_LENGTH], 16)
            if time != newest or merge != self._first(fact, before, time):
                return False
        elif merge is not None:
            of_its_time = len(merge) > PREFIX_LENGTH and str(microseconds(time)) in merge
            if merge[0] != "k" or of_its_time:
                return False
            before = int(merge[1:PREFIX_LENGTH], 16)
        is_repeat = time == newest
        for field, name in enumerate(self.names):
            value = getattr(fact, name)
            was_given = not before >> field & 1
            if value is UNSET or (field == PROGRAM_ID and value is None):
                if is_repeat and was_given:
                    return False
            elif not was_given or (is_repeat and getattr(state, name) != value):
                return False
        return True

    def _deleted(self, old: S, fact: Fact, at: Place) -> S | None:
        """The state after a deletion that is newer than all before, if no more than a creation is remembered.

        None in any other case.
        """
        newest, merge = old.updated_at, old.merge or PREFIXES[0]
        own_time = fact.deleted_by or fact.time
        effective_at = own_time or at.recorded_at
        memo = MEMO.decode(merge[PREFIX_LENGTH:] or "{}")
        is_plain = merge[0] == "k" and not (memo.o or memo.s or memo.h or memo.d or old.deleted_at)
        if not is_plain or newest is None or old.effective_at or effective_at <= newest:
            return None
        before, missing = int(merge[1:PREFIX_LENGTH], 16), self._all
        values = [getattr(old, name) for name in self.names]
        what = ("created",) if memo.c and memo.c[-1][0] == microseconds(newest) else ()
        given = self._given(fact)
        for field in given:
            missing &= ~(1 << field)
        key = (microseconds(effective_at), DELETION_RANK, at.position)
        said = self._said(old, given, ("deleted", fact.deleted_at))
        if kept := missing & ~before:
            said_before = {f: values[f] for f in bits(self._all & ~before)}
            ranked = self._rank(said_before.get(self._ranked))
            memo.o = [(microseconds(newest), ranked, 0, kept)]
            memo.s = [[microseconds(newest), self._said(old, said_before, what)]]
        if own_time is not None:
            memo.s.append([key[0], said])
        when = fact.deleted_at or fact.time or at.recorded_at
        memo.n = (DELETION_RANK, at.position, said)
        memo.d = [(key[0], at.position, microseconds(when))]
        for field, value in given.items():
            values[field] = value
        program_id, created_at, updated_at, *own = values
        return self._state(
            old.provider,
            old.merchant_id,
            program_id,
            old.id,
            created_at,
            updated_at,
            when,
            None if effective_at == updated_at else effective_at,
            f"n{missing:04x}{msgspec.json.encode(memo).decode()}",
            *reversed(own),
        )

    def _first(self, fact: Fact, missing: int, time: datetime) -> str | None:
        """The `merge` of the state after the first fact."""
        if not fact.created:
            return PREFIXES[missing] if missing else None
        rank = self._ranks.get(getattr(fact, self._ranked_by), 0) if self._ranks else 0
        return f'{PREFIXES[missing]}{{"c":[[{microseconds(time)},{rank},0]]}}'

    def _with_older(self, old: S, before: int, missing: int, newest: datetime) -> str | None:
        """The `merge` of a state whose newest fact gives other fields than the one before, if that is all there is.

        `before` and `missing` are what they leave out.
        """
        kept = missing & ~before
        if not kept:
            return PREFIXES[missing] if missing else None
        time = microseconds(newest)
        rank = 0
        if self._ranks and not before >> self._ranked & 1:
            rank = self._ranks.get(getattr(old, self._ranked_by), 0)
        older = f'{PREFIXES[missing]}{{"o":[[{time},{rank},0,{kept}]]'
        if before & 4:
            return older + "}"
        # The state is what the fact before said.
        return f'{older},"s":[[{time},{digest(old)}]]}}'
