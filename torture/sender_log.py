"""The sender's own record: what was sent, and what was answered."""

import hashlib
import time
from collections import Counter
from typing import Literal

import msgspec

# The header that tells one attempt from another: "12.3" is the third attempt of delivery 12. It is kept on record.
MARK = "X-Correlation-Id"

# What the sender knows of one attempt. `doubtful`: it may have arrived, and no 200 came back.
AttemptOutcome = Literal["acknowledged", "doubtful", "unsent"]


class Attempt(msgspec.Struct):
    """One request. `position` is what its 200 said, if that could be read."""

    outcome: AttemptOutcome = "doubtful"
    position: int | None = None


class Sent(msgspec.Struct, kw_only=True):
    """One delivery, and every attempt to send it."""

    provider: str
    topic: str
    stream: str
    digest: bytes
    attempts: list[Attempt] = msgspec.field(default_factory=list)


class SenderLog:
    """Everything that the senders know, by the number of the delivery, from 1."""

    def __init__(self) -> None:
        self.deliveries: dict[int, Sent] = {}
        self.attempts = 0
        self.acknowledged = 0
        # Statuses and errors, each with how often it was the answer.
        self.answers: Counter[str] = Counter()
        # Statuses that no delivery of ours deserves.
        self.refused: list[tuple[int, int]] = []
        self.longest_silence = 0.0
        self._last = time.monotonic()

    def begin(self) -> None:
        """Count the silence from now."""
        self._last = time.monotonic()

    def enter(self, sent: Sent) -> int:
        """Enter a delivery before its first attempt; gives back its number."""
        number = len(self.deliveries) + 1
        self.deliveries[number] = sent
        return number

    def attempt(self, number: int) -> tuple[Attempt, str]:
        """Enter an attempt before it is made; gives back its entry and its mark."""
        attempts = self.deliveries[number].attempts
        attempts.append(Attempt())
        self.attempts += 1
        return attempts[-1], f"{number}.{len(attempts)}"

    def acknowledge(self, attempt: Attempt, position: int | None) -> None:
        """Note a 200."""
        attempt.outcome = "acknowledged"
        attempt.position = position
        self.acknowledged += 1
        self.longest_silence = max(self.longest_silence, self.silence)
        self._last = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last 200."""
        return time.monotonic() - self._last


def digest_of(body: bytes) -> bytes:
    """What stands for a body in memory: a run may send gigabytes."""
    return hashlib.sha256(body).digest()
