"""What became of the deliveries of one process, in numbers."""

import math
from collections.abc import Collection, Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from eventstore.metrics import SECONDS, Histogram
from verification.delivery import Delivery

if TYPE_CHECKING:
    from datetime import datetime

# What a delivery is counted under that is for no provider of this server: the path of a stranger makes no label.
UNKNOWN = "unknown"

ACCEPTED = "accepted"
NOT_FOUND = "not_found"
UNVERIFIED = "unverified"


class _ProviderCounts:
    """The deliveries of one provider: `refused` by outcome and whether the sender was verified."""

    __slots__ = ("accepted", "last_accepted", "last_verified", "refused", "verified")

    def __init__(self, refused: Collection[tuple[str, bool]], *, verified: bool) -> None:
        # Whether its senders have to be verified.
        self.verified = verified
        self.accepted = 0
        self.refused = dict.fromkeys(refused, 0)
        self.last_accepted: datetime | None = None
        self.last_verified: datetime | None = None


class DeliveryCounts:
    """Counts deliveries. `verified` tells of each provider whether its senders have to be verified.

    `outcomes` are those that a delivery may have besides being accepted.
    """

    def __init__(self, verified: dict[str, bool], outcomes: Collection[str]) -> None:
        # An alert sees a number rise from 0, but not one that is new.
        refused = [
            (outcome, sender) for outcome in (*outcomes, UNVERIFIED) for sender in (False, True)
        ]
        self._counts = {
            name: _ProviderCounts(
                [key for key in refused if not key[1] or (needed and key[0] != UNVERIFIED)],
                verified=needed,
            )
            for name, needed in verified.items()
        }
        self._counts[UNKNOWN] = _ProviderCounts([(NOT_FOUND, False)], verified=False)
        # When the newest accepted one came in, by `perf_counter`.
        self.newest = -math.inf
        self.accepted_seconds = Histogram(SECONDS)
        self.refused_seconds = Histogram(SECONDS)

    def count_accepted(self, delivery: Delivery) -> None:
        """Count one that is on record."""
        counts = self._counts[delivery.provider]
        counts.accepted += 1
        counts.last_accepted = delivery.received_at
        self.newest = delivery.since
        self.accepted_seconds.observe(perf_counter() - delivery.since)

    def count_refused(self, delivery: Delivery, outcome: str) -> None:
        """Count one that is not on record."""
        counts = self._counts.get(delivery.provider) or self._counts[UNKNOWN]
        verified = delivery.verified and counts.verified
        if verified:
            counts.last_verified = delivery.received_at
        key = outcome, verified
        counts.refused[key] = counts.refused.get(key, 0) + 1
        self.refused_seconds.observe(perf_counter() - delivery.since)

    def outcomes(self) -> Iterator[tuple[str, str, bool, int]]:
        """How many deliveries of each provider had which outcome, and whether their senders were verified."""
        for name, counts in self._counts.items():
            if name != UNKNOWN:
                yield name, ACCEPTED, counts.verified, counts.accepted
            for (outcome, verified), count in counts.refused.items():
                yield name, outcome, verified, count

    def last_accepted(self) -> "Iterator[tuple[str, datetime]]":
        """When the newest accepted delivery of each provider came in."""
        for name, counts in self._counts.items():
            if counts.last_accepted is not None:
                yield name, counts.last_accepted

    def last_verified(self) -> "Iterator[tuple[str, datetime]]":
        """When the newest delivery of each provider came in that was verified, accepted or not."""
        for name, counts in self._counts.items():
            found = (counts.last_accepted, counts.last_verified)
            if counts.verified and (times := [at for at in found if at is not None]):
                yield name, max(times)
