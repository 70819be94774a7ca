"""How a fact changes a state: the rules are the same for everything that is tracked.

All facts of a thing stand in one order: by effective time, then by rank (a deletion comes last; a transaction's phases
in their order), then by position. The effective time is the provider's own, or else when the event was recorded. A
state is what folding its facts in that order gives, in whatever order they came:

- A field that a fact leaves out keeps its value; an explicit null clears it.
- A deletion leaves a tombstone. A later update sets fields, but only a later creation brings the thing back, with
  nothing of what was known before.
- A fact that says what another one said at the same time is its repeat, and changes nothing. Without a time of its own
  it is a repeat if it says what the newest one said, which has none either.

Mostly facts come in order and give the same fields as the one before: `Merger.in_order` is that case in straight lines,
since a rebuild does little else. `Merger.merge` is all of it. A state's `merge` says which fields the newest fact left
out, and what else has to be known of older facts: nothing, if there are no such fields.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET

from eventstore.fold.projection import FactKind, Judgement, Place, Standing
from projections.known import (
    BEFORE_ALL,
    COMMON,
    CREATED_AT,
    DELETION_RANK,
    FIRST_BIT,
    MEMO,
    MOST_REMEMBERED,
    PREFIX_LENGTH,
    PREFIXES,
    PROGRAM_ID,
    UPDATED_AT,
    Key,
    Known,
    Memo,
    bits,
    digest,
    forget_position,
    is_alone,
    mark,
    microseconds,
    moment_of,
    verdict_of,
)
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


class Merger(Generic[S]):
    """Merges facts into states of one type.

    `masks` are those of the state's own fields, in their order.

    Where facts of one time are ranked, `ranked` is the field by whose value they are, and `ranks` says how; a fact
    without it has rank 0.
    """

    def __init__(
        self, state: type[S], ranked: str | None = None, ranks: Mapping[Any, int] | None = None
    ) -> None:
        fields = {field.name: field for field in msgspec.structs.fields(state)}
        own = [name for name in fields if name not in Tracked.__struct_fields__]
        # Last comes first: those are left out more often, and small masks are quicker.
        self.names = (*COMMON, *reversed(own))
        self.masks = tuple(1 << self.names.index(name) for name in own)
        self._state = state
        self._all = (1 << len(self.names)) - 1
        self._types = [fields[name].type for name in self.names]
        self._defaults = [
            None if n < FIRST_BIT else fields[name].default for n, name in enumerate(self.names)
        ]
        self._ranked = -1 if ranked is None else self.names.index(ranked)
        self._ranks = ranks or {}
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

    def judge(self, state: S | None, fact: Fact, at: Place) -> Judgement:
        """What becomes of a fact, by the same rules."""
        return self.fold(state, fact, at)[1]

    def standing(self, before: S | None, after: S, fact: Fact, at: Place) -> Standing | None:
        """Where a fact stands that was just merged, between the states before and after it; None if it is a repeat."""
        time, kind, rank = fact.updated_at, _kind_of(fact), 0
        if fact.deleted:
            time, rank = fact.deleted_by or fact.time, DELETION_RANK
        elif self._ranks:
            rank = self._rank(getattr(fact, self.names[self._ranked]))
        newest = None if before is None else before.effective_at or before.updated_at
        effective_at = time or at.recorded_at
        if after is not before and (before is None or (newest and effective_at > newest)):
            return Standing(effective_at, time is None, rank, kind)
        judgement = None
        if (merged := self._merged) is not None and merged[0] is before and merged[1] is fact:
            judgement = merged[2]
            if judgement is None and time is not None:
                # It changes nothing, so it says what the newest one said, or is older.
                if time == newest:
                    return None
                return Standing(time, False, rank, kind, newest=False)  # noqa: FBT003 - in straight lines
        if judgement is None:
            judgement = self.judge(before, fact, at)
        if judgement.verdict == "duplicate":
            return None
        return Standing(
            judgement.effective_at,
            judgement.recorded,
            judgement.order[1],
            kind,
            judgement.newest,
            judgement.verdict == "tie",
        )

    def fold(self, state: S | None, fact: Fact, at: Place) -> tuple[S, Judgement]:
        """The state after a fact, and what became of that: all of the rules, without a shorter way."""
        known = self._known(state)
        own_time = (fact.deleted_by or fact.time) if fact.deleted else fact.updated_at
        effective_at = own_time or at.recorded_at
        time = microseconds(effective_at)
        given = self._given(fact)
        rank = DELETION_RANK if fact.deleted else self._rank(given.get(self._ranked))
        key = (time, rank, at.position)
        what: tuple[object, ...] = ("deleted", fact.deleted_at) if fact.deleted else ()
        said = self._said(state or fact, given, ("created",) if fact.created else what)
        before, verdict = state, verdict_of(known, given, key, said, is_timed=own_time is not None)
        after, is_newest = state, key > known.newest
        if verdict != "duplicate" or after is None:
            for field, value in given.items():
                if field not in known.fields or known.fields[field][0] < key:
                    known.fields[field] = (key, value)
            mark(known, fact, key, microseconds(fact.deleted_at or fact.time or at.recorded_at))
            if own_time is not None:
                known.said.setdefault(time, []).append(said)
            if is_newest:
                known.newest, known.newest_said = key, said
            after = self._made(known, state, fact)
            if verdict == "stale" and (before is None or self._differs(before, after)):
                verdict = "late"
            if after == state:
                after = state
        _, deleted = known.life()
        judgement = Judgement(
            verdict,
            effective_at,
            recorded=own_time is None,
            order=key,
            said=said,
            newest=is_newest,
            deletes=fact.deleted,
            after_deletion=not fact.deleted and deleted is not None and deleted < time,
        )
        return after, judgement

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

    def _known(self, state: S | None) -> Known:
        """What a state says of the facts that made it."""
        known: Known = Known()
        if state is None:
            return known
        merge = state.merge or PREFIXES[0]
        missing = int(merge[1:PREFIX_LENGTH], 16)
        memo = MEMO.decode(merge[PREFIX_LENGTH:] or "{}")
        newest_at = state.effective_at or state.updated_at
        time = BEFORE_ALL[0] if newest_at is None else microseconds(newest_at)
        values = [getattr(state, name) for name in self.names]
        for field, value in memo.h.items():
            values[field] = msgspec.convert(value, self._types[field])
        ranked = self._ranks and not missing >> self._ranked & 1
        rank = self._rank(values[self._ranked]) if ranked else 0
        rank, position, known.newest_said = memo.n or (rank, 0, 0)
        known.newest = (time, rank, position)
        for *of_key, mask in (*memo.o, (*known.newest, self._all & ~missing)):
            for field in bits(mask):
                known.fields[field] = ((of_key[0], of_key[1], of_key[2]), values[field])
        known.said = {each[0]: each[1:] for each in memo.s}
        known.creations = {time: (rank, position) for time, rank, position in memo.c}
        known.deletions = {time: (position, when) for time, position, when in memo.d}
        if state.deleted_at is not None and not memo.d:
            # Other code folded it, which kept no keys.
            deleted_at = max(state.deleted_at, state.updated_at or state.deleted_at)
            when = microseconds(state.deleted_at)
            known.deletions[microseconds(deleted_at)] = (0, when)
        if memo.n is None:
            given = {f: value for f, (key, value) in known.fields.items() if key == known.newest}
            what = ("created",) if time in known.creations else ()
            known.newest_said = self._said(state, given, what)
            if known.is_timed:
                known.said[time] = [known.newest_said]
        return known

    def _made(self, known: Known, state: S | None, fact: Fact) -> S:
        """The state that what is known makes; whose it is the first fact said."""
        beginning, deleted = known.life()
        memo = Memo()
        older: dict[Key, int] = {}
        missing = self._all
        values = list(self._defaults)
        for field, (key, value) in known.fields.items():
            if key == known.newest:
                missing &= ~(1 << field)
            else:
                older[key] = older.get(key, 0) | 1 << field
            if beginning is None or key >= beginning:
                values[field] = value
            else:
                memo.h[field] = f"{value:f}" if isinstance(value, Decimal) else value
        memo.h = dict(sorted(memo.h.items()))
        memo.o = [(*key, mask) for key, mask in sorted(older.items())]
        time = known.newest[0]
        times = {time, max(known.deletions, default=time), *(key[0] for key in older)}
        memo.s = [[t, *known.said[t][-MOST_REMEMBERED:]] for t in sorted(times & known.said.keys())]
        memo.c = [(t, *mark) for t, mark in sorted(known.creations.items())][-MOST_REMEMBERED:]
        memo.d = [(t, *mark) for t, mark in sorted(known.deletions.items())][-MOST_REMEMBERED:]
        prefix = PREFIXES[missing]
        if is_alone(known, older):
            forget_position(memo, known.newest)
        else:
            memo.n = (*known.newest[1:], known.newest_said)
            prefix = "n" + prefix[1:]
        rest = msgspec.json.encode(memo).decode()
        merge = prefix if rest == "{}" else prefix + rest
        program_id, created_at, updated_at, *own = values
        deleted_at = None if deleted is None else moment_of(known.deletions[deleted][1])
        newest_at = None if known.newest == BEFORE_ALL else moment_of(time)
        owner = fact if state is None else state
        return self._state(
            owner.provider,
            owner.merchant_id,
            program_id,
            owner.id,
            created_at,
            updated_at,
            deleted_at,
            None if newest_at == updated_at else newest_at,
            None if merge == PREFIXES[0] else merge,
            *reversed(own),
        )

    def _given(self, fact: Fact) -> dict[int, Any]:
        """The values that a fact gives, by the numbers of their fields."""
        given: dict[int, Any] = {}
        if fact.program_id is not None:
            given[PROGRAM_ID] = fact.program_id
        if fact.created_at is not UNSET:
            given[CREATED_AT] = fact.created_at
        if fact.time is not None:
            given[UPDATED_AT] = fact.time
        for field, name in enumerate(self.names[FIRST_BIT:], FIRST_BIT):
            if (value := getattr(fact, name)) is not UNSET:
                given[field] = value
        return given

    def _said(
        self, whose: Tracked | Fact, given: Mapping[int, Any], what: tuple[object, ...]
    ) -> int:
        """A digest of what a fact says: its fields, and `what` it does besides to change them."""
        missing, values = self._all, list(self._defaults)
        for field, value in given.items():
            missing &= ~(1 << field)
            values[field] = value
        program_id, created_at, updated_at, *own = values
        said = self._state(
            whose.provider,
            whose.merchant_id,
            program_id,
            whose.id,
            created_at,
            updated_at,
            merge=PREFIXES[missing] if missing else None,
            **dict(zip(self.names[FIRST_BIT:], own, strict=True)),
        )
        return digest(said, what)

    def _first(self, fact: Fact, missing: int, time: datetime) -> str | None:
        """The `merge` of the state after the first fact."""
        if not fact.created:
            return PREFIXES[missing] if missing else None
        rank = self._rank(getattr(fact, self.names[self._ranked])) if self._ranks else 0
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
            rank = self._ranks.get(getattr(old, self.names[self._ranked]), 0)
        older = f'{PREFIXES[missing]}{{"o":[[{time},{rank},0,{kept}]]'
        if before & 4:
            return older + "}"
        # The state is what the fact before said.
        return f'{older},"s":[[{time},{digest(old)}]]}}'

    def _rank(self, value: object) -> int:
        return self._ranks.get(value, 0) if isinstance(value, str) else 0

    def _differs(self, before: S, after: S) -> bool:
        """Whether anything differs that people see."""
        return before.deleted_at != after.deleted_at or any(
            getattr(before, name) != getattr(after, name) for name in self.names
        )


def _kind_of(fact: Fact) -> FactKind:
    if fact.deleted:
        return "deletion"
    return "creation" if fact.created else "change"
