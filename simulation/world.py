"""What the simulated providers share: deliveries, rates, randomness and time."""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

import msgspec

__all__ = ["NAMES", "Body", "Delivery", "Life", "Rates", "World", "encode"]


class Delivery(msgspec.Struct, frozen=True):
    """One HTTP request of a provider, ready to be sent.

    Deliveries of one `thing` must be sent in the order in which they are generated. `headers` may be
    shared between deliveries, and must not be changed.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    thing: str
    note: Literal["fresh", "duplicate", "late"] = "fresh"


class Rates(msgspec.Struct, frozen=True):
    """How often things happen, each a share from 0 to 1. Raises ValueError outside of that."""

    duplicate: float = 0.02
    """of the deliveries, those sent a second time"""
    late: float = 0.02
    """of the deliveries, those overtaken by the next one of their thing: at most half can be, and
    in a run of a few thousand fewer are, as the next one may not have come yet"""
    fitbank: float = 0.25
    """of the deliveries, those from FitBank; the others are from Loopz"""
    topup: float = 0.10
    """of a card's movements, those that add money"""
    refund: float = 0.06
    """of a spent-from card's movements, those that give money back"""
    pending: float = 0.15
    """of a card's movements, those that are PENDING before they are decided"""
    deleted: float = 0.20
    """of the gift cards, those deleted at the end"""
    only_id: float = 0.50
    """of the deletions, those whose body is only the id"""
    wrapped: float = 0.10
    """of Loopz's bodies, those like {"gift_card": {...}}"""
    camel_case: float = 0.10
    """of the transactions, those with giftCardId for gift_card_id, a bare amount, and so on"""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                message = f"{name} is a share from 0 to 1, not {getattr(self, name)}"
                raise ValueError(message)


Life: TypeAlias = Iterator[Delivery]
"""The deliveries of one gift card, location or payment, in order."""
Body: TypeAlias = dict[str, object]
T = TypeVar("T")

encode = msgspec.json.Encoder().encode

# Invented names, as documentation uses them.
NAMES = ("Ana Exemplo", "José Modelo", "Ada Example", "Max Muster", "Jane Sample", "Zoë Specimen")


class World:
    """What all lives share: randomness, and a clock that only moves forward."""

    def __init__(self, seed: int, rates: Rates, start: datetime) -> None:
        self.rates = rates
        self._now = start
        self._bits = random.Random(seed)  # noqa: S311 (seeded on purpose)
        self._random = self._bits.random
        self._pauses = [timedelta(microseconds=1 + self.below(10_000_000)) for _ in range(1_000)]

    def tick(self) -> datetime:
        """Return the time, always later than before: events are a few seconds apart."""
        self._now += self.pick(self._pauses)
        return self._now

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return self._random() < share

    def below(self, limit: int) -> int:
        """Return a whole number from 0 to limit - 1."""
        # Twice as fast as randrange; its bias is far below anything a simulation could show.
        return int(self._random() * limit)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of the choices, each as likely as the others."""
        return choices[self.below(len(choices))]

    def digits(self, count: int) -> str:
        """Return that many digits."""
        return f"{self.below(10**count):0{count}}"

    def uuid(self) -> str:
        """Return an id in the form of a UUID."""
        text = f"{self._bits.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"
