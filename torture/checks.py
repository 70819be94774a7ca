"""The checks: what is on record against what was sent and answered. Pure, so that they can be tested themselves."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec

from eventstore.fold.folding import fold
from eventstore.fold.projection import Projection, Source
from eventstore.fold.refiling import find_stream
from eventstore.log.events import Event
from torture.sender_log import SenderLog, Sent

# How many violations are kept with their facts; all are counted.
KEPT = 20

Kind = Literal[
    "lost",  # a 200 that is not on record at the position that it told
    "doubled",  # more events than attempts, or two events at one position
    "hole",  # a position without an event
    "altered",  # an event that is not what was sent
    "unsent",  # an event that nobody sent
    "order",  # a time on record that goes back
    "head",  # the head row and the events do not agree
    "state",  # a state that is not the fold of the log
    "count",  # folded + ignored + quarantined that do not add up, or are not those of the log
    "refused",  # a status that no delivery of ours deserves
    "down",  # the server did not come back, or not catch up
    "stop",  # the server did not stop cleanly
    "orphan",  # a process outlived the server
    "critical",  # the server or Postgres says that something cannot be
    "slow",  # amid a crowd, a 99th percentile above the promised one
    "unserved",  # amid a crowd, no 200 though nothing was being killed
    "memory",  # a worker that grew for a crowd
    "forgotten",  # a rejection of a verified sender that is not on record any more
    "trusted",  # a stranger that was asked for its body, or whose delivery was accepted
]


class Violation(msgspec.Struct, frozen=True):
    """A promise that was not kept. `facts` name positions and streams, never what a delivery holds."""

    kind: Kind
    facts: str


class Violations:
    """All that was found, counted; the first ones with their facts."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.first: list[Violation] = []

    def add(self, kind: Kind, facts: str, count: int = 1) -> None:
        """Note a violation, or `count` of one cause."""
        self.counts[kind] += count
        if len(self.first) < KEPT:
            self.first.append(Violation(kind, facts))


class OnRecord(NamedTuple):
    """An event as the database has it; `mark` is the delivery's number and the attempt's, if it bears one."""

    position: int
    event_id: UUID
    provider: str
    topic: str
    stream: str
    recorded_at: datetime
    mark: tuple[int, int] | None
    digest: bytes


class LogCheck:
    """Compares the log with what was sent: `add` every event in the order of positions, then `close`."""

    def __init__(self, sender_log: SenderLog, violations: Violations) -> None:
        self.events = 0
        # Events of attempts whose answer was lost: the sender could not but repeat them.
        self.repeated = 0
        self._sender_log = sender_log
        self._violations = violations
        self._newest = 0
        self._recorded_at: datetime | None = None
        self._event_ids: set[UUID] = set()
        self._positions: dict[tuple[int, int], int] = {}

    def add(self, event: OnRecord) -> None:
        """Check one event by itself, and against those before it."""
        self.events += 1
        self._check_place(event)
        if event.event_id in self._event_ids:
            self._violations.add("doubled", f"event id of position {event.position} twice")
        self._event_ids.add(event.event_id)
        sent = self._sent(event)
        if sent is None or event.mark is None:
            self._violations.add("unsent", _place(event))
            return
        if event.mark in self._positions:
            first = self._positions[event.mark]
            self._violations.add("doubled", f"{_place(event)}: one attempt, also at {first}")
            if event.position != sent.attempts[event.mark[1] - 1].position:
                return
        self._positions[event.mark] = event.position
        expected = (sent.provider, sent.topic, sent.stream, sent.digest)
        found = (event.provider, event.topic, event.stream, event.digest)
        if expected != found:
            names = ("provider", "topic", "stream", "body")
            differing = [n for n, a, b in zip(names, expected, found, strict=True) if a != b]
            self._violations.add("altered", f"{_place(event)}: {', '.join(differing)}")

    def close(self, head: int) -> None:
        """Check the end of the log, and that every 200 is on record where it said."""
        if head > self._newest:
            self._hole(self._newest + 1, head)
        if head != self._newest:
            self._violations.add("head", f"head row {head}, newest event {self._newest}")
        for number, sent in self._sender_log.deliveries.items():
            for order, attempt in enumerate(sent.attempts, 1):
                position = self._positions.get((number, order))
                if attempt.outcome == "acknowledged":
                    self._check_acknowledged(sent, (number, order), attempt.position, position)
                elif position is not None and attempt.outcome == "doubtful":
                    self.repeated += 1
                elif position is not None:
                    self._violations.add(
                        "unsent", f"position {position}, {sent.stream}: no attempt reached us"
                    )
            if sent.attempts and sent.attempts[-1].outcome != "acknowledged":
                self._violations.add("down", f"{sent.stream}: delivery {number} never got its 200")

    def _check_place(self, event: OnRecord) -> None:
        if event.position == self._newest:
            self._violations.add("doubled", f"two events at position {event.position}")
        elif event.position > self._newest + 1:
            self._hole(self._newest + 1, event.position - 1)
        self._newest = max(self._newest, event.position)
        if self._recorded_at is not None and event.recorded_at < self._recorded_at:
            self._violations.add("order", f"{_place(event)}: recorded before its predecessor")
        self._recorded_at = event.recorded_at

    def _hole(self, first: int, last: int) -> None:
        self._violations.add("hole", f"positions {first} to {last}", last - first + 1)

    def _sent(self, event: OnRecord) -> Sent | None:
        if event.mark is None:
            return None
        number, order = event.mark
        sent = self._sender_log.deliveries.get(number)
        return sent if sent is not None and 1 <= order <= len(sent.attempts) else None

    def _check_acknowledged(
        self, sent: Sent, mark: tuple[int, int], told: int | None, found: int | None
    ) -> None:
        place = f"{sent.stream}: attempt {mark[1]} of delivery {mark[0]} was told {told}"
        if found is None:
            self._violations.add("lost", f"{place}, and is not on record")
        elif told is not None and told != found:
            self._violations.add("lost", f"{place}, and is at {found}")


class Counts(NamedTuple):
    """How many events a projection has folded, ignored and quarantined, as the registry says."""

    checkpoint: int
    folded: int
    ignored: int
    quarantined: int


# A state, and the position of the event that changed it last.
Placed = tuple[int, Any]


class FreshFold:
    """One projection, folded anew from the first event."""

    def __init__(self, projection: Projection[Any], sources: Mapping[str, Source]) -> None:
        self.states: dict[str, Placed] = {}
        self.quarantined: set[int] = set()
        self._projection = projection
        self._sources = sources
        self._counts: Counter[str] = Counter()
        self._checkpoint = 0

    def add(self, event: Event) -> None:
        """Fold the next event."""
        stream = find_stream(self._sources, event)
        before = self.states[stream][1] if stream in self.states else None
        folded = fold(self._projection, self._sources, before, event)
        self._checkpoint = event.position
        if folded.verdict in {"ignored", "quarantined"}:
            self._counts[folded.verdict] += 1
            if folded.verdict == "quarantined":
                self.quarantined.add(event.position)
            return
        self._counts["folded"] += 1
        if folded.state != before:
            self.states[stream] = (event.position, folded.state)

    @property
    def counts(self) -> Counts:
        """What the registry ought to say."""
        counts = self._counts
        return Counts(self._checkpoint, counts["folded"], counts["ignored"], counts["quarantined"])


def check_counts(name: str, fresh: FreshFold, found: Counts, violations: Violations) -> None:
    """Check that a projection's counts add up, and are those of the log."""
    if found.folded + found.ignored + found.quarantined != found.checkpoint:
        violations.add("count", f"{name}: {found} does not add up")
    if found != fresh.counts:
        violations.add("count", f"{name}: {found}, by the log {fresh.counts}")


def check_quarantine(name: str, fresh: FreshFold, found: set[int], violations: Violations) -> None:
    """Check that what is in quarantine is what cannot be folded."""
    for position in sorted(found ^ fresh.quarantined):
        which = "wrongly" if position in found else "not"
        violations.add("state", f"{name}: position {position} is {which} in quarantine")


def check_states(
    name: str, expected: Mapping[str, Placed], found: Mapping[str, Placed], violations: Violations
) -> None:
    """Check that every state is the fold of the log, and that there are no others."""
    for stream in sorted(expected.keys() | found.keys()):
        if stream not in found:
            violations.add("state", f"{name}: {stream} is missing")
        elif stream not in expected:
            violations.add("state", f"{name}: {stream} is not in the log")
        elif differing := _differing(expected[stream], found[stream]):
            violations.add("state", f"{name}: {stream} differs in {', '.join(differing)}")


def _differing(expected: Placed, found: Placed) -> list[str]:
    names = [] if expected[0] == found[0] else ["position"]
    if expected[1] == found[1]:
        return names
    fields = expected[1].__struct_fields__
    return names + [n for n in fields if getattr(expected[1], n) != getattr(found[1], n)]


def _place(event: OnRecord) -> str:
    return f"position {event.position}, {event.stream}"
