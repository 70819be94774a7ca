"""What a state remembers of the facts that made it, for those that come late.

Mostly that is nothing. It is kept in the state's `merge`: which fields the newest fact left out and, as JSON, whatever
else has to be known of older facts.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec

from eventstore.fold.projection import Verdict
from projections.tracked import Tracked
from providers.facts import Fact

# The fields of `Tracked` that are merged, in the order of their bits; those of the state itself follow.
PROGRAM_ID, CREATED_AT, UPDATED_AT = 0, 1, 2
COMMON = ("program_id", "created_at", "updated_at")
FIRST_BIT: Final = len(COMMON)

# Where a fact stands among the facts of its thing: its time in microseconds since 1970, its rank, its position. A
# position is 0 for one that was the only one of its time, and in order, when it came.
Key: TypeAlias = tuple[int, int, int]

BEFORE_ALL: Key = (-(2**62), 0, 0)

# Behind all phases.
DELETION_RANK = 100

# How many different facts of one time, creations and deletions of one thing are remembered; of more, the newest.
MOST_REMEMBERED = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Memo(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
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


MEMO = msgspec.json.Decoder(Memo)

encode = msgspec.json.Encoder().encode


class _Prefixes(dict[int, str]):
    """The beginning of `merge` where the newest fact is alone at its time, by the mask of what it left out.

    With the same beginning, the rest stands for the next fact too.
    """

    def __missing__(self, missing: int) -> str:
        prefix = self[missing] = f"k{missing:04x}"
        return prefix


PREFIXES = _Prefixes()
PREFIX_LENGTH = 5


class Known:
    """What a state says of the facts that made it: the newest key, and of each field its value and its fact's key.

    `said` are digests of what was said, by time; `creations` and `deletions` are the keys of those, a deletion's with
    when it was by the provider's word.
    """

    def __init__(self) -> None:
        self.newest = BEFORE_ALL
        self.newest_said = 0
        self.fields: dict[int, tuple[Key, Any]] = {}
        self.said: dict[int, list[int]] = {}
        self.creations: dict[int, tuple[int, int]] = {}
        self.deletions: dict[int, tuple[int, int]] = {}

    @property
    def is_timed(self) -> bool:
        """Whether the newest fact has a time of the provider's."""
        return UPDATED_AT in self.fields and self.fields[UPDATED_AT][0] == self.newest

    def life(self) -> tuple[Key | None, int | None]:
        """The creation that what is known begins with, if a deletion came before it; the deletion in force."""
        marks = sorted(
            [
                *(
                    (time, rank, position, False)
                    for time, (rank, position) in self.creations.items()
                ),
                *((time, DELETION_RANK, pos, True) for time, (pos, _) in self.deletions.items()),
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


def verdict_of(
    known: Known, given: Mapping[int, Any], key: Key, said: int, *, is_timed: bool
) -> Verdict:
    """What becomes of a fact; `stale` if that depends on whether it changes anything."""
    time = key[0]
    if is_timed and said in known.said.get(time, ()):
        return "duplicate"
    if (
        not is_timed
        and known.newest != BEFORE_ALL
        and not known.is_timed
        and said == known.newest_said
    ):
        return "duplicate"
    others = [known.newest, *(known.fields[field][0] for field in given if field in known.fields)]
    if any(other[0] == time for other in others) and (is_timed or known.is_timed):
        return "tie"
    return "applied" if key > known.newest else "stale"


def mark(known: Known, fact: Fact, key: Key, when: int) -> None:
    """Remember a creation, the first of its time, or a deletion."""
    time, rank, position = key
    if fact.created:
        known.creations[time] = min(known.creations.get(time, (rank, position)), (rank, position))
    if fact.deleted:
        known.deletions[time] = (position, when)


def is_alone(known: Known, older: Mapping[Key, int]) -> bool:
    """Whether the newest fact is the only one known of its time, and no deletion: then the state says what it said."""
    time, rank, position = known.newest
    return (
        rank != DELETION_RANK
        and not any(key[0] == time for key in older)
        and all(said == known.newest_said for said in known.said.get(time, ()))
        and known.creations.get(time, (rank, position)) == (rank, position)
        and time not in known.deletions
    )


def forget_position(memo: Memo, newest: Key) -> None:
    """Leave out what the state says itself of its newest fact."""
    time, rank, _ = newest
    memo.s = [each for each in memo.s if each[0] != time]
    memo.c = [(time, rank, 0) if each[0] == time else each for each in memo.c]


def bits(mask: int) -> list[int]:
    """The numbers of the bits that are set."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def digest(said: Tracked, what: tuple[object, ...] = ()) -> int:
    """64 bits that are the same in every process, for what a state says, and what else was done."""
    encoded = encode(said)
    if what:
        encoded += encode(what)
    return int.from_bytes(blake2b(encoded, digest_size=8).digest())


def microseconds(moment: datetime) -> int:
    """A time as microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(microseconds: int) -> datetime:
    """The time so many microseconds after 1970."""
    return _EPOCH + _MICROSECOND * microseconds
