"""Failures in a row: one tenant that sends nonsense must not stop a projection for all; code that folds nothing must.

They are counted by provider and topic, over distinct streams: an event of the same topic that folds ends a row, and a
stream that fails again and again counts once. Of one tenant only so many count, if others are known whose events
did fold: then the fault is probably its own.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

# By "provider topic": the streams whose events failed in a row, the first one first.
Failing: TypeAlias = Mapping[str, Iterable[str]]

NOTHING_FAILING: Failing = MappingProxyType({})

# Streams that are kept of one row and one tenant. A limit above that never stops a projection.
MOST_STREAMS = 1_000

# Of so many failures in a row, one has to be of another tenant than all others, where others are known to fold.
OTHERS_SHARE = 10


def tenant_of(stream: str) -> str:
    """The beginning of a stream's name, "provider/tenant/"."""
    provider, tenant, _ = stream.split("/", 2)
    return f"{provider}/{tenant}/"


class FailureRows:
    """The failures in a row of one projection, by provider and topic."""

    def __init__(self, failing: Failing = NOTHING_FAILING) -> None:
        self._rows: dict[str, dict[str, None]] = {
            topic: dict.fromkeys(streams) for topic, streams in failing.items()
        }
        self._counts = {topic: Counter(map(tenant_of, row)) for topic, row in self._rows.items()}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._rows)

    def add(self, topic: str, stream: str) -> None:
        """An event of this "provider topic" failed."""
        row, counts = self._rows.setdefault(topic, {}), self._counts.setdefault(topic, Counter())
        if stream not in row and counts[tenant := tenant_of(stream)] < MOST_STREAMS:
            row[stream] = None
            counts[tenant] += 1

    def end(self, topic: str) -> None:
        """An event of this "provider topic" did not fail."""
        self._rows.pop(topic, None)
        self._counts.pop(topic, None)

    def reaches(self, topic: str, limit: int, excused: Collection[str]) -> bool:
        """Say whether so many streams failed in a row; of a tenant that is `excused`, only a part of `limit` counts."""
        if len(self._rows[topic]) < limit:
            return False
        most = limit - max(1, limit // OTHERS_SHARE)
        counts = self._counts[topic].items()
        return sum(min(n, most) if tenant in excused else n for tenant, n in counts) >= limit

    def main_tenant(self, topic: str) -> str:
        """The tenant of most of a row."""
        ((tenant, _),) = self._counts[topic].most_common(1)
        return tenant

    def to_failing(self) -> dict[str, list[str]]:
        """The rows as they are put into the registry."""
        return {topic: list(row) for topic, row in self._rows.items()}
