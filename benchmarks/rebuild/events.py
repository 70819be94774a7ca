"""A long log in little time: lines for Postgres' COPY, with bodies such as the simulated providers send.

The bodies are those of `simulation/`, in the forms that a query likes best: bare, in snake_case, every snapshot whole,
nothing sent twice. Some come late, after a newer one of their thing; but never a payment's first, which says when it
was created. So the newest snapshot, by the provider's own time, is the whole truth about a thing, for a query too.

All things are open all the time: the events of one lie scattered over the log.
"""

import random
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone

import msgspec

from simulation.deliveries import START
from simulation.world import NAMES, Rates, World, encode

# Of the table `events`, in the order of a line.
COLUMNS = (
    *("position", "event_id", "received_at", "recorded_at", "topic"),
    *("provider", "merchant_id", "program_id", "stream", "headers", "body"),
)

MERCHANTS = 20
LATE = 0.02
DELETED = 0.05
PENDING = 0.15
BY = timedelta(milliseconds=1)

FACE_VALUES = (1_000, 1_500, 2_000, 2_500, 5_000, 7_500, 10_000, 25_000)
CURRENCIES = ("USD", "CAD", "EUR")
TYPES = ("REDEEM", "REDEEM", "REDEEM", "TOPUP", "REFUND")
DECISIONS = (
    *[("transaction.updated", "COMPLETED")] * 8,
    ("transaction.updated", "FAILED"),
    ("transaction.deleted", "VOIDED"),
)
METHODS = (
    *["UpdatePurchaseClosedLoopStatusMongo"] * 8,
    "UpdateDepositClosedLoopStatusMongo",
    "UpdateWithdrawalClosedLoopStatusMongo",
)
STATUSES = (
    *[("Created", "CanBePreAuthorized", "Authorized", "PreSettled", "Settled")] * 17,
    ("Created", "CanBePreAuthorized", "Authorized", "Canceled"),
    ("Created", "CanBePreAuthorized", "Authorized", "PreSettled", "Canceled"),
    ("Created", "CanBePreAuthorized", "Error"),
)
BRASILIA = timezone(timedelta(hours=-3))

# To be filled in for each event: its position, id, times and topic, and what is HOLE in its headers and body.
LINE = "%s\t%s\t%s\t%s\t%s\t{provider}\t{merchant}\t{program}\t{stream}\t{headers}\t{body}\n"
HOLE = msgspec.Raw(b"%s")
# As COPY wants line ends.
LOOPZ_HEADERS = (
    r"Host: ledger.example.org\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    r"X-LOOPZ-WEBHOOK-TOPIC: %s\r\nX-LOOPZ-MERCHANT-ID: {merchant}\r\nX-LOOPZ-PROGRAM-ID: {program}\r\n"
)
FITBANK_HEADERS = (
    r"Host: ledger.example.org\r\nAccept: */*\r\nContent-Type: application/json; charset=utf-8\r\n"
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record: so many events, of so many things. Half of the transactions are FitBank's.

    Transactions have as many events as their kind has; all others are of the gift cards.
    """

    events: int
    cards: int
    transactions: int
    seed: int = 1


def lines(plan: Plan) -> Iterator[str]:
    """The log, a line for each event, in order. Raises ValueError for fewer events than the things have at least."""
    world = World(plan.seed, Rates(), START)
    return _Log(world).write(plan)


class _Log:
    """A log being written: where it stands, and the lives that are open."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._position = 0
        self._now = START
        self._at = ""
        self._random = random.Random(world.below(2**32))  # noqa: S311 - seeded on purpose
        self._cards: list[str] = []

    def write(self, plan: Plan) -> Iterator[str]:
        world = self._world
        self._cards = [world.uuid() for _ in range(plan.cards)]
        lives: list[Iterator[str]] = []
        turns: list[int] = []
        for number in range(plan.transactions):
            if number % 2:
                statuses = world.pick(STATUSES)
                lives.append(self._payment(statuses))
                turns += [number] * len(statuses)
            else:
                pending = world.chance(PENDING)
                lives.append(self._transaction(pending=pending))
                turns += [number] * (1 + pending)
        rest = plan.events - len(turns)
        if rest < plan.cards:
            message = f"{plan.events:,} events are too few for so many cards and transactions"
            raise ValueError(message)
        for number, id_ in enumerate(self._cards):
            events = rest // plan.cards + (number < rest % plan.cards)
            turns += [len(lives)] * events
            lives.append(self._card(id_, events))
        self._random.shuffle(turns)
        for turn in turns:
            self._position += 1
            self._now = world.tick()
            self._at = _text(self._now)
            yield next(lives[turn])

    def _line(self, template: str, topic: str, *holes: object) -> str:
        event_id = f"{self._random.getrandbits(128):032x}"
        return template % (self._position, event_id, self._at, self._at, topic, *holes)

    def _card(self, id_: str, events: int) -> Iterator[str]:
        world = self._world
        number = 1 + world.below(MERCHANTS)
        template = _loopz("gift-card", number, _card_body(world, id_, number, self._at))
        balance, newest, gone = world.pick(FACE_VALUES), self._now, world.chance(DELETED)
        for n in range(events):
            if n > 1 and world.chance(LATE):
                topic, told, money = "gift-card.updated", _text(newest - BY), balance + 100
            else:
                what = "created" if n == 0 else "deleted" if gone and n == events - 1 else "updated"
                topic, told = f"gift-card.{what}", self._at
                money = balance = max(0, balance - 300 - world.below(1_000)) if n else balance
                newest = self._now
            yield self._line(template, topic, topic, money, told)

    def _transaction(self, *, pending: bool) -> Iterator[str]:
        world = self._world
        number = 1 + world.below(MERCHANTS)
        id_, currency = world.uuid(), _currency(number)
        body = {
            "id": id_,
            "type": (kind := world.pick(TYPES)),
            "status": "%s",
            "gift_card_id": world.pick(self._cards),
            "location_id": f"00000000-0000-4000-a000-{number:012}",
            "amount": {"amount": 300 + world.below(4_200), "currencyCode": currency},
            "created_on": self._at,
            "updated_on": "%s",
        }
        if kind == "REDEEM" and world.chance(0.2):
            body["tip"] = {"amount": 30 + world.below(500), "currencyCode": currency}
        template = _loopz("transaction", number, body)
        topic, status = "transaction.created", "PENDING" if pending else "COMPLETED"
        yield self._line(template, topic, topic, status, self._at)
        topic, status = world.pick(DECISIONS)
        yield self._line(template, topic, topic, status, self._at)

    def _payment(self, statuses: tuple[str, ...]) -> Iterator[str]:
        world = self._world
        unit = 65 + 1 + world.below(MERCHANTS)
        id_, cents, method = f"TRA{world.uuid()}TRA", 100 + world.below(60_000), world.pick(METHODS)
        body = {
            "Method": method,
            "MerchantName": f"Loja Exemplo {unit}",
            "UserName": world.pick(NAMES),
            "UserAccountKey": f"{world.digits(6)}-{world.digits(6)}-5",
            "Identifier": f"PCL-{world.uuid()}",
            "TransactionIdentifier": id_,
            "Status": "%s",
            "BusinessUnitId": HOLE,
            "TotalValue": HOLE,
            "Date": "%s",
        }
        template = LINE.format(
            provider="fitbank",
            merchant=unit,
            program=r"\N",
            stream=f"fitbank/{unit}/transaction/{id_}",
            headers=FITBANK_HEADERS,
            body=encode(body).decode(),
        )
        newest = self._now
        for status, late in _order(world, statuses):
            told = newest - BY if late else self._now
            newest = max(newest, told)
            # Numbers and strings, zones and offsets: FitBank uses the one for the other.
            yield self._line(
                template,
                method,
                status,
                unit if world.chance(0.5) else f'"{unit}"',
                cents / 100 if world.chance(0.3) else f'"{cents / 100:.2f}"',
                _text(told) if world.chance(0.2) else told.astimezone(BRASILIA).isoformat(),
            )


def _order(world: World, statuses: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """The statuses as they come, each with whether it is late; the first never is."""
    yield statuses[0], False
    held: str | None = None
    for status in statuses[1:]:
        if held is None and status != statuses[-1] and world.chance(LATE):
            held = status
            continue
        yield status, False
        if held is not None:
            yield held, True
            held = None


def _card_body(world: World, id_: str, number: int, now: str) -> Mapping[str, object]:
    body: dict[str, object] = {
        "id": id_,
        "code": world.uuid()[:13].upper(),
        "gan": world.digits(16),
        "balance": {"amount": HOLE, "currencyCode": _currency(number)},
        "type": "DIGITAL",
        "created_on": now,
        "updated_on": "%s",
        "recipient_name": world.pick(NAMES),
        "recipient_email": f"recipient{world.digits(6)}@example.com",
    }
    if world.chance(0.5):
        design = f"https://cards.example.org/designs/{world.below(40)}"
        body["front_design_image_url"] = f"{design}/front.png"
        body["back_design_image_url"] = f"{design}/back.png"
    if world.chance(0.3):
        body["funding_source"] = {
            "id": world.uuid(),
            "type": "EXTERNAL",
            "payment_details": {"type": "CREDIT_CARD", "reason": "PURCHASE"},
        }
    return body


def _loopz(kind: str, number: int, body: Mapping[str, object]) -> str:
    merchant, program = f"m-{number}", f"p-{number}"
    return LINE.format(
        provider="loopz",
        merchant=merchant,
        program=program,
        stream=f"loopz/{merchant}/{kind}/{body['id']}",
        headers=LOOPZ_HEADERS.format(merchant=merchant, program=program),
        body=encode(body).decode(),
    )


def _currency(number: int) -> str:
    return CURRENCIES[number % len(CURRENCIES)]


def _text(moment: datetime) -> str:
    """A time in UTC as the providers write it."""
    return moment.isoformat()[:-6] + "Z"
