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
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET

from eventstore.fold.projection import Judgement, Place, Verdict
from projections.tracked import Tracked
from providers.facts import Fact

S = TypeVar("S", bound=Tracked)

# The fields of `Tracked` that are merged, in the order of their bits; those of the state itself follow.
_PROGRAM_ID, _CREATED_AT, _UPDATED_AT = 0, 1, 2
_COMMON = ("program_id", "created_at", "updated_at")
FIRST_BIT: Final = len(_COMMON)

# Where in a state its `merge` is, which its own fields follow.
_MERGE: Final = Tracked.__struct_fields__.index("merge")

# Where a fact stands among the facts of its thing: its time in microseconds since 1970, its rank, its position. A
# position is 0 for one that was the only one of its time, and in order, when it came.
Key: TypeAlias = tuple[int, int, int]

_BEFORE_ALL: Key = (-(2**62), 0, 0)

# Behind all phases.
_DELETION_RANK = 100

# How many different facts of one time, creations and deletions of one thing are remembered; of more, the newest.
MOST_REMEMBERED = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

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


class _Memo(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What a state's `merge` holds behind its prefix, as JSON, in short. Times are microseconds since 1970.

    `n` is of the newest fact: rank, position, digest; not where it is alone at its time, and no deletion. `o` are older
    facts that decide fields: time, rank, position, mask of the fields. `s` are digests of what was said, each list
    after its time. `h` are values from before the creation, by the numbers of their fields. `c` are creations: time,
    rank, position. `d` are deletions: time, position, when it was by the provider's word.
    """

    n: tuple[int, int, int] | None = None
    o: list[tuple[int, int, int, int]] = []
    s: list[list[int]] = []
    h: dict[int, Any] = {}
    c: list[Key] = []
    d: list[Key] = []


_MEMO = msgspec.json.Decoder(_Memo)

_encode = msgspec.json.Encoder().encode


class _Prefixes(dict[int, str]):
    """The beginning of `merge` where the newest fact is alone at its time, by the mask of what it left out.

    With the same beginning, the rest stands for the next fact too.
    """

    def __missing__(self, missing: int) -> str:
        prefix = self[missing] = f"k{missing:04x}"
        return prefix


_PREFIXES = _Prefixes()
_PREFIX_LENGTH = 5


class _Known(Generic[S]):
    """What a state says of the facts that made it: the newest key, and of each field its value and its fact's key.

    `said` are digests of what was said, by time; `creations` and `deletions` are the keys of those, a deletion's with
    when it was by the provider's word.
    """

    def __init__(self) -> None:
        self.newest = _BEFORE_ALL
        self.newest_said = 0
        self.fields: dict[int, tuple[Key, Any]] = {}
        self.said: dict[int, list[int]] = {}
        self.creations: dict[int, tuple[int, int]] = {}
        self.deletions: dict[int, tuple[int, int]] = {}

    @property
    def is_timed(self) -> bool:
        """Whether the newest fact has a time of the provider's."""
        return _UPDATED_AT in self.fields and self.fields[_UPDATED_AT][0] == self.newest

    def life(self) -> tuple[Key | None, int | None]:
        """The creation that what is known begins with, if a deletion came before it; the deletion in force."""
        marks = sorted(
            [
                *(
                    (time, rank, position, False)
                    for time, (rank, position) in self.creations.items()
                ),
                *((time, _DELETION_RANK, pos, True) for time, (pos, _) in self.deletions.items()),
            ]
        )
        beginning: Key | None = None
        deleted: int | None = None
        for time, rank, position, is_deletion in marks:
            if is_deletion:
                deleted = time
            elif deleted is not None:
                beginning, deleted = (time, rank, position), None
        return beginning, deleted


class Merger(Generic[S]):
    """Merges facts into states of one type.

    Where facts of one time are ranked, `ranked` is the field by whose value they are, and `ranks` says how; a fact
    without it has rank 0.
    """

    def __init__(
        self, state: type[S], ranked: str | None = None, ranks: Mapping[Any, int] | None = None
    ) -> None:
        fields = {field.name: field for field in msgspec.structs.fields(state)}
        own = [name for name in fields if name not in Tracked.__struct_fields__]
        self.names = (*_COMMON, *own)
        self._state = state
        self._all = (1 << len(self.names)) - 1
        self._types = [fields[name].type for name in self.names]
        self._defaults = [
            None if n < FIRST_BIT else fields[name].default for n, name in enumerate(self.names)
        ]
        self._ranked = -1 if ranked is None else self.names.index(ranked)
        self._ranks = ranks or {}

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
            elif not merge.startswith(_PREFIXES[missing]):
                if len(merge) != _PREFIX_LENGTH:
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
        return self._merge(state, fact, at)[0]

    def judge(self, state: S | None, fact: Fact, at: Place) -> Judgement:
        """What becomes of a fact, by the same rules."""
        return self._merge(state, fact, at)[1]

    def _merge(self, state: S | None, fact: Fact, at: Place) -> tuple[S, Judgement]:
        known = self._known(state)
        own_time = (fact.deleted_by or fact.time) if fact.deleted else fact.updated_at
        effective_at = own_time or at.recorded_at
        time = _microseconds(effective_at)
        given = self._given(fact)
        rank = _DELETION_RANK if fact.deleted else self._rank(given.get(self._ranked))
        key = (time, rank, at.position)
        what: tuple[object, ...] = ("deleted", fact.deleted_at) if fact.deleted else ()
        said = self._said(state or fact, given, ("created",) if fact.created else what)
        before, verdict = state, _verdict(known, given, key, said, is_timed=own_time is not None)
        after = state
        if verdict != "duplicate" or after is None:
            for field, value in given.items():
                if field not in known.fields or known.fields[field][0] < key:
                    known.fields[field] = (key, value)
            _mark(known, fact, key, _microseconds(fact.deleted_at or fact.time or at.recorded_at))
            if own_time is not None:
                known.said.setdefault(time, []).append(said)
            if key > known.newest:
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
            deletes=fact.deleted,
            after_deletion=not fact.deleted and deleted is not None and deleted < time,
        )
        return after, judgement

    def _known(self, state: S | None) -> _Known[S]:
        """What a state says of the facts that made it."""
        known: _Known[S] = _Known()
        if state is None:
            return known
        merge = state.merge or _PREFIXES[0]
        missing = int(merge[1:_PREFIX_LENGTH], 16)
        memo = _MEMO.decode(merge[_PREFIX_LENGTH:] or "{}")
        newest_at = state.effective_at or state.updated_at
        time = _BEFORE_ALL[0] if newest_at is None else _microseconds(newest_at)
        values = [getattr(state, name) for name in self.names]
        for field, value in memo.h.items():
            values[field] = msgspec.convert(value, self._types[field])
        ranked = self._ranks and not missing >> self._ranked & 1
        rank = self._rank(values[self._ranked]) if ranked else 0
        rank, position, known.newest_said = memo.n or (rank, 0, 0)
        known.newest = (time, rank, position)
        for *of_key, mask in (*memo.o, (*known.newest, self._all & ~missing)):
            for field in _bits(mask):
                known.fields[field] = ((of_key[0], of_key[1], of_key[2]), values[field])
        known.said = {each[0]: each[1:] for each in memo.s}
        known.creations = {time: (rank, position) for time, rank, position in memo.c}
        known.deletions = {time: (position, when) for time, position, when in memo.d}
        if state.deleted_at is not None and not memo.d:
            # Other code folded it, which kept no keys.
            deleted_at = max(state.deleted_at, state.updated_at or state.deleted_at)
            when = _microseconds(state.deleted_at)
            known.deletions[_microseconds(deleted_at)] = (0, when)
        if memo.n is None:
            given = {f: value for f, (key, value) in known.fields.items() if key == known.newest}
            what = ("created",) if time in known.creations else ()
            known.newest_said = self._said(state, given, what)
            if known.is_timed:
                known.said[time] = [known.newest_said]
        return known

    def _made(self, known: _Known[S], state: S | None, fact: Fact) -> S:
        """The state that what is known makes; whose it is the first fact said."""
        beginning, deleted = known.life()
        memo = _Memo()
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
        prefix = _PREFIXES[missing]
        if _is_alone(known, older):
            _forget_position(memo, known.newest)
        else:
            memo.n = (*known.newest[1:], known.newest_said)
            prefix = "n" + prefix[1:]
        rest = msgspec.json.encode(memo).decode()
        merge = prefix if rest == "{}" else prefix + rest
        program_id, created_at, updated_at, *own = values
        deleted_at = None if deleted is None else _moment(known.deletions[deleted][1])
        newest_at = None if known.newest == _BEFORE_ALL else _moment(time)
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
            None if merge == _PREFIXES[0] else merge,
            *own,
        )

    def _given(self, fact: Fact) -> dict[int, Any]:
        """The values that a fact gives, by the numbers of their fields."""
        given: dict[int, Any] = {}
        if fact.program_id is not None:
            given[_PROGRAM_ID] = fact.program_id
        if fact.created_at is not UNSET:
            given[_CREATED_AT] = fact.created_at
        if fact.time is not None:
            given[_UPDATED_AT] = fact.time
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
            merge=_PREFIXES[missing] if missing else None,
            **dict(zip(self.names[FIRST_BIT:], own, strict=True)),
        )
        return _digest(said, what)

    def _first(self, fact: Fact, missing: int, time: datetime) -> str | None:
        """The `merge` of the state after the first fact."""
        if not fact.created:
            return _PREFIXES[missing] if missing else None
        rank = self._rank(getattr(fact, self.names[self._ranked])) if self._ranks else 0
        return f'{_PREFIXES[missing]}{{"c":[[{_microseconds(time)},{rank},0]]}}'

    def _with_older(self, old: S, before: int, missing: int, newest: datetime) -> str | None:
        """The `merge` of a state whose newest fact gives other fields than the one before, if that is all there is.

        `before` and `missing` are what they leave out.
        """
        kept = missing & ~before
        if not kept:
            return _PREFIXES[missing] if missing else None
        time = _microseconds(newest)
        rank = 0
        if self._ranks and not before >> self._ranked & 1:
            rank = self._ranks.get(getattr(old, self.names[self._ranked]), 0)
        older = f'{_PREFIXES[missing]}{{"o":[[{time},{rank},0,{kept}]]'
        if before & 4:
            return older + "}"
        # The state is what the fact before said.
        return f'{older},"s":[[{time},{_digest(old)}]]}}'

    def _rank(self, value: object) -> int:
        return self._ranks.get(value, 0) if isinstance(value, str) else 0

    def _differs(self, before: S, after: S) -> bool:
        """Whether anything differs that people see."""
        return before.deleted_at != after.deleted_at or any(
            getattr(before, name) != getattr(after, name) for name in self.names
        )


def _verdict(
    known: _Known[S], given: Mapping[int, Any], key: Key, said: int, *, is_timed: bool
) -> Verdict:
    """What becomes of a fact; `stale` if that depends on whether it changes anything."""
    time = key[0]
    if is_timed and said in known.said.get(time, ()):
        return "duplicate"
    if (
        not is_timed
        and known.newest != _BEFORE_ALL
        and not known.is_timed
        and said == known.newest_said
    ):
        return "duplicate"
    others = [known.newest, *(known.fields[field][0] for field in given if field in known.fields)]
    if any(other[0] == time for other in others) and (is_timed or known.is_timed):
        return "tie"
    return "applied" if key > known.newest else "stale"


def _mark(known: _Known[S], fact: Fact, key: Key, when: int) -> None:
    """Remember a creation, the first of its time, or a deletion."""
    time, rank, position = key
    if fact.created:
        known.creations[time] = min(known.creations.get(time, (rank, position)), (rank, position))
    if fact.deleted:
        known.deletions[time] = (position, when)


def _is_alone(known: _Known[S], older: Mapping[Key, int]) -> bool:
    """Whether the newest fact is the only one known of its time, and no deletion: then the state says what it said."""
    time, rank, position = known.newest
    return (
        rank != _DELETION_RANK
        and not any(key[0] == time for key in older)
        and all(said == known.newest_said for said in known.said.get(time, ()))
        and known.creations.get(time, (rank, position)) == (rank, position)
        and time not in known.deletions
    )


def _forget_position(memo: _Memo, newest: Key) -> None:
    """Leave out what the state says itself of its newest fact."""
    time, rank, _ = newest
    memo.s = [each for each in memo.s if each[0] != time]
    memo.c = [(time, rank, 0) if each[0] == time else each for each in memo.c]


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def _digest(said: Tracked, what: tuple[object, ...] = ()) -> int:
    """64 bits that are the same in every process, for what a state says, and what else was done."""
    encoded = _encode(said)
    if what:
        encoded += _encode(what)
    return int.from_bytes(blake2b(encoded, digest_size=8).digest())


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
