"""Histories as far as they were told already: their steps as JSON, and what it takes to go on from there.

What a generation has folded of a thing does not change any more, so neither do its steps.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventstore.query.history_fold import HistoryFold

# What a history takes without its steps, and a step without its JSON, in bytes, about.
HISTORY_BYTES = 2_000
STEP_BYTES = 500


class KnownHistory:
    """The history of one thing in one generation: every event up to position `through` is folded into `folding`.

    Whoever adds to it holds `lock`. `size` is in bytes, about.
    """

    def __init__(self, generation: int, folding: "HistoryFold[Any]") -> None:
        self.generation = generation
        self.folding = folding
        self.through = 0
        self.lock = asyncio.Lock()
        self.size = HISTORY_BYTES
        self._positions: list[int] = []
        self._masked: list[bytes] = []
        self._revealed: list[bytes] = []

    def add(self, position: int, masked: bytes, revealed: bytes) -> None:
        """Add the next step."""
        self._positions.append(position)
        self._masked.append(masked)
        self._revealed.append(revealed)
        self.size += STEP_BYTES + len(masked)
        self.size += 0 if revealed is masked else len(revealed)

    def steps(self, after: int, limit: int, *, revealed: bool) -> list[tuple[int, bytes]]:
        """The first `limit` steps after a position, each with its own."""
        first = bisect_right(self._positions, after)
        steps = self._revealed if revealed else self._masked
        window = slice(first, first + limit)
        return list(zip(self._positions[window], steps[window], strict=True))


class KnownHistories:
    """The histories that a process knows: those asked for last, so many bytes of them all together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str], tuple[KnownHistory, int]] = OrderedDict()
        self._bytes = 0
        # Of a longer history the beginning is kept: one alone does not take the room of all others.
        self.longest_bytes = most_bytes // 4

    def find(self, projection: str, stream: str) -> KnownHistory | None:
        """What is known of a thing."""
        found = self._kept.get((projection, stream))
        if found is None:
            return None
        self._kept.move_to_end((projection, stream))
        return found[0]

    def keep(self, projection: str, stream: str, known: KnownHistory) -> None:
        """Keep a history, or note that it has grown; those that nobody has asked for longest go."""
        _, counted = self._kept.pop((projection, stream), (None, 0))
        self._kept[projection, stream] = known, known.size
        self._bytes += known.size - counted
        while self._bytes > self._most_bytes:
            _, (_, counted) = self._kept.popitem(last=False)
            self._bytes -= counted
