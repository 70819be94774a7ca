"""How a fact changes a state: the rules are the same for everything that is tracked.

All facts of a thing stand in one order: by effective time, then by rank (a deletion comes last; a transaction's phases
in their order), then by position. The effective time is the provider's own, or else when the event was recorded. A
state is what folding its facts in that order gives, in whatever order they came:

- A field that a fact leaves out keeps its value; an explicit null clears it.
- A deletion leaves a tombstone. A later update sets fields, but only a later creation brings the thing back, with
  nothing of what was known before.
- A fact that says what another one said at the same time is its repeat, and changes nothing. Without a time of its own
  it is a repeat if it says what the newest one said, which has none either.

A state's `merge` says which fields the newest fact left out, and what else has to be known of older facts: nothing, if
there are no such fields. `projections/fast_merging.py` has shorter ways to the same states, for the usual facts.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET

from eventstore.fold.projection import Judgement, Place
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
        self._ranked_by = ranked or ""
        self._ranks = ranks or {}

    def judge(self, state: S | None, fact: Fact, at: Place) -> Judgement:
        """What becomes of a fact, by the same rules."""
        return self.fold(state, fact, at)[1]

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

    def _rank(self, value: object) -> int:
        return self._ranks.get(value, 0) if isinstance(value, str) else 0

    def _differs(self, before: S, after: S) -> bool:
        """Whether anything differs that people see."""
        return before.deleted_at != after.deleted_at or any(
            getattr(before, name) != getattr(after, name) for name in self.names
        )
