"""What is asked, over and over: each question with the targets that ask it of different things."""

from collections.abc import Iterator
from datetime import timedelta

import msgspec

from benchmarks.rebuild.events import MERCHANTS
from simulation.deliveries import START, Delivery
from simulation.world import encode

# Cards that are asked for, drawn from all.
CARDS = 1_000

# Cards with a history of one page, and the one whose history is asked for from its middle.
SHORT_HISTORIES = 20
SHORT_EVENTS = 100

# Of the events of a history, one in so many is late, or repeats the one before.
LATE = 50
REPEATED = 70

PAGE_ITEMS = 50


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of question. `targets` are asked in turn."""

    name: str
    targets: list[str]


def questions(cards: list[str], middle: int) -> list[Question]:
    """All of them; `cards` are ids, `middle` is a position in the middle of the long history."""
    merchants = [f"m-{number}" for number in range(1, MERCHANTS + 1)]
    listed = f"deleted=false&limit={PAGE_ITEMS}"
    return [
        Question(name="card", targets=[f"/v1/gift-cards/{id_}" for id_ in cards]),
        Question(
            name="page", targets=[f"/v1/gift-cards?merchant_id={one}&{listed}" for one in merchants]
        ),
        Question(
            name="sorted page",
            targets=[
                f"/v1/gift-cards?merchant_id={one}&{listed}&sort=-balance" for one in merchants
            ],
        ),
        Question(
            name="history",
            targets=[
                f"/v1/gift-cards/{_id(number)}/history?limit={SHORT_EVENTS}"
                for number in range(1, SHORT_HISTORIES + 1)
            ],
        ),
        Question(
            name="deep history",
            targets=[f"/v1/gift-cards/{_id(0)}/history?limit={SHORT_EVENTS}&cursor={middle}"],
        ),
    ]


def long_history(events: int) -> Iterator[Delivery]:
    """The deliveries of the card with the long history."""
    return _life(0, events)


def short_histories() -> Iterator[Delivery]:
    """The deliveries of the cards with a history of one page."""
    for number in range(1, SHORT_HISTORIES + 1):
        yield from _life(number, SHORT_EVENTS)


def _id(number: int) -> str:
    return f"busy-card-{number}"


def _ends(n: int, every: int) -> bool:
    return n % every == every - 1


def _life(number: int, events: int) -> Iterator[Delivery]:
    """A balance that moves with each event; some come late, some twice."""
    for n in range(events):
        repeats, late = _ends(n, REPEATED), _ends(n, LATE)
        told = START + timedelta(seconds=n - (90.5 if late else repeats))
        body = {
            "id": _id(number),
            "code": f"CODE-{number:08}",
            "gan": f"{number:016}",
            "balance": {"amount": 100_000 - n + repeats, "currencyCode": "EUR"},
            "type": "DIGITAL",
            "updated_on": told.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        yield Delivery(
            path="/webhooks/loopz",
            headers={
                "Content-Type": "application/json",
                "X-LOOPZ-WEBHOOK-TOPIC": "gift-card.updated",
                "X-LOOPZ-MERCHANT-ID": "m-1",
                "X-LOOPZ-PROGRAM-ID": "p-1",
            },
            body=encode(body),
            thing=f"loopz/m-1/gift-card/{_id(number)}",
        )
