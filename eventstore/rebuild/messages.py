"""What a server and its builder processes say to each other: a line of JSON each.

The server says `BuilderSettings`, then the `Job`, then one `Range` after the other: all of them once, and those of the
second pass only when the first is done and what it wrote is indexed. For each range a builder says
`Reached` now and then, and at last one of `Done`, `TooMany` and `Failed`.
"""

from typing import TypeAlias

import msgspec

from eventstore.limits import Limits

# Hashes of streams are of 32 bits, signed.
LOWEST, HIGHEST = -(2**31), 2**31 - 1


class BuilderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every builder has to know: the database's URL, limits, and each provider's section of the settings."""

    dsn: str
    limits: Limits
    providers: dict[str, msgspec.Raw]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A generation to build, of the events up to the position `target`; `streams`: about how many, 0 if unknown."""

    projection: str
    generation: int
    target: int
    streams: int = 0


class Range(msgspec.Struct, frozen=True):
    """The streams whose names hash to `low` ... `high`, both included; in the second pass those to be folded again."""

    low: int = LOWEST
    high: int = HIGHEST
    second_pass: bool = False

    @property
    def share(self) -> float:
        """Its part of all streams."""
        return (self.high - self.low + 1) / (HIGHEST - LOWEST + 1)

    def split(self, parts: int) -> "list[Range]":
        """Cut it into about equal parts, at most so many."""
        size = -(-(self.high - self.low + 1) // parts)
        return [
            Range(low, min(low + size - 1, self.high), self.second_pass)
            for low in range(self.low, self.high + 1, size)
        ]


class BuildCounts(msgspec.Struct, frozen=True):
    """How many events of a range, or of the whole log, were folded and how many quarantined.

    `left_out` are those that belong to other streams than on record, until the second pass has folded them there; of
    that pass all counts are by how much it changes those of the first.
    """

    folded: int
    quarantined: int
    left_out: int = 0

    def __add__(self, other: "BuildCounts") -> "BuildCounts":
        """Add them up."""
        return BuildCounts(
            self.folded + other.folded,
            self.quarantined + other.quarantined,
            self.left_out + other.left_out,
        )


class Reached(msgspec.Struct, frozen=True, tag=True):
    """The range is folded up to this position."""

    position: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The range is built."""

    counts: BuildCounts


class TooMany(msgspec.Struct, frozen=True, tag=True):
    """The range has too many streams to be held in memory: it is to be cut into so many parts."""

    parts: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The builder cannot go on; `transient`: because of an outage of Postgres that ends by itself."""

    error: str
    transient: bool


Report: TypeAlias = Reached | Done | TooMany | Failed
