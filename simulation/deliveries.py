"""The deliveries that two busy providers would send: seeded, endless if need be, and pure.

Everything that happens is told as a *life*: an iterator over the deliveries that one gift card
(with its transactions), one location or one payment gives rise to. Many lives are open at once;
whichever is drawn next takes its next step. Between provider and receiver stands a network, which
repeats some deliveries and lets some overtake others.

There is no clock and no global randomness: the same arguments give the same bytes.
"""

import random
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Literal, TypeAlias, TypeVar

import msgspec

__all__ = ["Delivery", "Rates", "deliveries"]

START = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)


class Delivery(msgspec.Struct, frozen=True):
    """One HTTP request of a provider, ready to be sent.

    Deliveries of one `thing` are to be sent in the order in which they are generated. `headers` may
    be shared between deliveries: not to be changed.
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
    """of the transactions, those with giftCardId for gift_card_id, and so on"""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                message = f"{name} is a share from 0 to 1, not {getattr(self, name)}"
                raise ValueError(message)


Life: TypeAlias = Iterator[Delivery]
Body: TypeAlias = dict[str, object]
T = TypeVar("T")


def deliveries(
    seed: int,
    count: int,
    rates: Rates = Rates(),  # noqa: B008 (frozen)
    *,
    merchants: int = 3,
    open_lives: int = 200,
    start: datetime = START,
) -> Iterator[Delivery]:
    """Generate exactly `count` deliveries; memory grows with `open_lives` only, not with `count`.

    Another seed gives other things: no two runs meet in a gift card or payment, though they share
    the merchants ("m-1", "m-2", ...). `merchants` is also the number of FitBank's business units.
    """
    world = _World(seed, rates, start)
    network = _Network(world)
    shops = [_Merchant(world, number) for number in range(1, merchants + 1)]
    units = [_BusinessUnit(world, number) for number in range(1, merchants + 1)]
    loopz = _interleave(world, map(network.carry, _loopz_lives(world, shops)), open_lives)
    fitbank = _interleave(world, map(network.carry, _fitbank_lives(world, units)), open_lives)
    for _ in range(count):
        yield next(fitbank if world.chance(rates.fitbank) else loopz)


def _loopz_lives(world: "_World", merchants: Sequence["_Merchant"]) -> Iterator[Life]:
    for merchant in merchants:
        for location_id in merchant.location_ids:
            yield merchant.location(location_id)
    while True:
        merchant = world.pick(merchants)
        yield merchant.new_location() if world.chance(0.05) else merchant.gift_card()


def _fitbank_lives(world: "_World", units: Sequence["_BusinessUnit"]) -> Iterator[Life]:
    while True:
        yield world.pick(units).payment()


def _interleave(world: "_World", lives: Iterator[Life], at_once: int) -> Iterator[Delivery]:
    """Let many lives go on at once: each delivery is the next one of a life drawn at random."""
    running = list(islice(lives, at_once))
    while True:
        drawn = world.below(at_once)
        delivery = next(running[drawn], None)
        if delivery is None:
            running[drawn] = next(lives)
        else:
            yield delivery


class _World:
    """What all lives share: chance, and a time that only goes forward."""

    def __init__(self, seed: int, rates: Rates, start: datetime) -> None:
        self.rates = rates
        self._now = start
        self._bits = random.Random(seed)  # noqa: S311 (seeded on purpose)
        self._random = self._bits.random
        self._pauses = [timedelta(microseconds=1 + self.below(10_000_000)) for _ in range(1_000)]

    def tick(self) -> datetime:
        """Return the time, always later than before: a few seconds lie between two events."""
        self._now += self.pick(self._pauses)
        return self._now

    def chance(self, share: float) -> bool:
        return self._random() < share

    def below(self, limit: int) -> int:
        # Twice as fast as randrange; its bias is far below anything a simulation could show.
        return int(self._random() * limit)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def digits(self, count: int) -> str:
        return f"{self.below(10**count):0{count}}"

    def uuid(self) -> str:
        text = f"{self._bits.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


class _Network:
    """What lies between a provider and us: it changes the order of deliveries and repeats some."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._late_owed = 0.0

    def carry(self, life: Life) -> Life:
        """Yield the deliveries of a life as they arrive."""
        return self._repeat(self._reorder(life))

    def _reorder(self, life: Life) -> Life:
        """Hold a delivery that is to be late until the next one of its thing has gone by.

        Whether one follows is not known beforehand: what was held in vain stays owed, so that the
        share of late deliveries comes out as stated whatever the lives are like.
        """
        share = self._world.rates.late
        held: dict[str, Delivery] = {}
        for delivery in life:
            self._late_owed += share
            if delivery.thing in held:
                yield delivery
                yield msgspec.structs.replace(held.pop(delivery.thing), note="late")
            elif self._late_owed >= 1:
                self._late_owed -= 1
                held[delivery.thing] = delivery
            else:
                yield delivery
        self._late_owed += len(held)
        yield from held.values()

    def _repeat(self, life: Life) -> Life:
        share = self._world.rates.duplicate
        for delivery in life:
            yield delivery
            if self._world.chance(share):
                yield msgspec.structs.replace(delivery, note="duplicate")


class _Merchant:
    """A merchant with a Loopz programme: locations, gift cards and what is done with them."""

    def __init__(self, world: _World, number: int) -> None:
        self._world = world
        self._id = f"m-{number}"
        self._currency = _CURRENCIES[number % len(_CURRENCIES)]
        self._headers = {
            topic: {
                "Content-Type": "application/json",
                "X-LOOPZ-MERCHANT-ID": self._id,
                "X-LOOPZ-PROGRAM-ID": f"p-{number}",
                "X-LOOPZ-WEBHOOK-TOPIC": topic,
                "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID": world.uuid(),
            }
            for topic in _LOOPZ_TOPICS
        }
        self.location_ids = [world.uuid() for _ in range(6)]

    def new_location(self) -> Life:
        """Open a location in the place of another one, so that their number stays the same."""
        location_id = self._world.uuid()
        self.location_ids[self._world.below(len(self.location_ids))] = location_id
        return self.location(location_id)

    def location(self, location_id: str) -> Life:
        world = self._world
        place: Body = {
            "id": location_id,
            "external_id": f"store-{world.digits(4)}",
            "name": f"{world.pick(_STREETS)} {1 + world.below(200)}",
            "status": "ACTIVE",
            "type": "PHYSICAL" if world.chance(0.8) else "VIRTUAL",
            "created_on": (now := world.tick()),
            "updated_on": now,
        }
        yield self._delivery("location.created", place)
        for _ in range(world.below(5)):
            place["status"] = "INACTIVE" if place["status"] == "ACTIVE" else "ACTIVE"
            place["updated_on"] = world.tick()
            yield self._delivery("location.updated", place)

    def gift_card(self) -> Life:
        """Buy a gift card, spend from it, top it up, and in the end perhaps delete it."""
        world, rates = self._world, self._world.rates
        balance, spent = world.pick(_FACE_VALUES), 0
        card = self._new_card(balance)
        yield self._delivery("gift-card.created", card)
        yield from self._transaction(card, "TOPUP", balance, pending=False)
        for _ in range(1 + world.below(20)):
            if spent and world.chance(rates.refund):
                kind, change = "REFUND", 1 + world.below(spent)
            elif world.chance(rates.topup):
                kind, change = "TOPUP", world.pick(_FACE_VALUES)
            elif balance:
                kind, change = "REDEEM", -min(balance, 300 + world.below(4_200))
            else:
                break
            pending = world.chance(rates.pending)
            if (yield from self._transaction(card, kind, abs(change), pending=pending)):
                balance += change
                spent -= change if kind != "TOPUP" else 0
                card["balance"] = self._money(balance)
                card["updated_on"] = world.tick()
                yield self._delivery("gift-card.updated", card)
        if world.chance(rates.deleted):
            card["updated_on"] = world.tick()
            yield self._delivery("gift-card.deleted", card)

    def _transaction(
        self, card: Body, kind: str, cents: int, *, pending: bool
    ) -> Generator[Delivery, None, bool]:
        """Record a transaction of a card; return whether it went through."""
        world = self._world
        camel_case = world.chance(world.rates.camel_case)
        transaction: Body = {
            "id": world.uuid(),
            "type": kind,
            "status": "PENDING" if pending else "COMPLETED",
            "gift_card_id": card["id"],
            "location_id": world.pick(self.location_ids),
            "amount": self._money(cents),
            "created_on": (now := world.tick()),
            "updated_on": now,
        }
        if kind == "REDEEM" and world.chance(0.2):
            transaction["tip"] = self._money(cents // 10)
        yield self._delivery("transaction.created", _styled(transaction, camel_case=camel_case))
        if not pending:
            return True
        topic, status = _DECISIONS[world.below(len(_DECISIONS))]
        transaction["status"] = status
        transaction["updated_on"] = world.tick()
        yield self._delivery(topic, _styled(transaction, camel_case=camel_case))
        return status == "COMPLETED"

    def _new_card(self, balance: int) -> Body:
        world = self._world
        card: Body = {
            "id": world.uuid(),
            "code": world.uuid()[:13].upper(),
            "gan": world.digits(16),
            "balance": self._money(balance),
            "type": "DIGITAL",
            "created_on": (now := world.tick()),
            "updated_on": now,
        }
        if world.chance(0.7):
            name = world.pick(_NAMES)
            card["recipient_name"] = name
            card["recipient_email"] = f"{name.split()[0].lower()}{world.digits(4)}@example.com"
        if world.chance(0.5):
            design = f"https://cards.example.org/designs/{world.below(40)}"
            card["front_design_image_url"] = f"{design}/front.png"
            card["back_design_image_url"] = f"{design}/back.png"
        if world.chance(0.3):
            card["funding_source"] = {
                "id": world.uuid(),
                "type": "EXTERNAL",
                "payment_details": {"type": "CREDIT_CARD", "reason": "PURCHASE"},
            }
        return card

    def _money(self, cents: int) -> Body:
        return {"amount": cents, "currencyCode": self._currency}

    def _delivery(self, topic: str, snapshot: Body) -> Delivery:
        world, rates = self._world, self._world.rates
        kind, what = topic.split(".")
        thing = f"loopz/{self._id}/{kind}/{snapshot['id']}"
        if what == "deleted" and world.chance(rates.only_id):
            snapshot = {"id": snapshot["id"]}
        if world.chance(rates.wrapped):
            snapshot = {kind.replace("-", "_"): snapshot}
        return Delivery("/webhooks/loopz", self._headers[topic], _json(snapshot), thing)


class _BusinessUnit:
    """A merchant whose sales and cash desk go through FitBank."""

    def __init__(self, world: _World, number: int) -> None:
        self._world = world
        self._number = 65 + number
        self._name = f"Loja Exemplo {number}"

    def payment(self) -> Life:
        """Take a purchase, withdrawal or deposit through its statuses, to a good end or not."""
        world = self._world
        prefix, method = world.pick(_METHODS)
        identifier, cents = f"TRA{world.uuid()}TRA", 100 + world.below(60_000)
        payment: Body = {
            "Method": method,
            "MerchantName": self._name,
            "UserName": world.pick(_NAMES),
            "UserAccountKey": f"{world.digits(6)}-{world.digits(6)}-{world.digits(7)}-5",
            "Identifier": f"{prefix}-{world.uuid()}",
            "TransactionIdentifier": identifier,
        }
        if world.chance(0.5):
            payment["Partner"] = 1000 + self._number
        thing = f"fitbank/{self._number}/transaction/{identifier}"
        for status in world.pick(_STATUSES):
            now = world.tick()
            payment["Status"] = status
            # Numbers and strings, zones and offsets: FitBank uses the one for the other.
            payment["BusinessUnitId"] = self._number if world.chance(0.5) else str(self._number)
            payment["TotalValue"] = cents / 100 if world.chance(0.3) else f"{cents / 100:.2f}"
            payment["Date"] = now if world.chance(0.2) else now.astimezone(_BRASILIA)
            yield Delivery("/webhooks/fitbank", _FITBANK_HEADERS, _json(payment), thing)


def _styled(transaction: Body, *, camel_case: bool) -> Body:
    """Return a transaction as one or the other of Loopz's two ways to name fields."""
    if not camel_case:
        return transaction
    return {_CAMEL_CASE.get(name, name): value for name, value in transaction.items()}


_json = msgspec.json.Encoder().encode

_LOOPZ_TOPICS = (
    "gift-card.created",
    "gift-card.updated",
    "gift-card.deleted",
    "transaction.created",
    "transaction.updated",
    "transaction.deleted",
    "location.created",
    "location.updated",
)
_CAMEL_CASE = {
    "gift_card_id": "giftCardId",
    "location_id": "locationId",
    "created_on": "createdAt",
    "updated_on": "updatedAt",
}
# How a PENDING transaction is decided: each line is equally likely.
_DECISIONS = (
    *[("transaction.updated", "COMPLETED")] * 8,
    ("transaction.updated", "FAILED"),
    ("transaction.deleted", "VOIDED"),
)
_FACE_VALUES = (1_000, 1_500, 2_000, 2_500, 5_000, 7_500, 10_000, 25_000)
_CURRENCIES = ("USD", "CAD", "EUR")

_FITBANK_HEADERS = {"Content-Type": "application/json; charset=utf-8"}
# FitBank's documentation maps the last two crosswise: a withdrawal has the method of a deposit.
_METHODS = (
    *[("PCL", "UpdatePurchaseClosedLoopStatusMongo")] * 8,
    ("WCL", "UpdateDepositClosedLoopStatusMongo"),
    ("DCL", "UpdateWithdrawalClosedLoopStatusMongo"),
)
_AUTHORIZED = ("Created", "CanBePreAuthorized", "Authorized")
# The ways a payment can go: each line is equally likely.
_STATUSES = (
    *[(*_AUTHORIZED, "PreSettled", "Settled")] * 17,
    (*_AUTHORIZED, "Canceled"),
    (*_AUTHORIZED, "PreSettled", "Canceled"),
    ("Created", "CanBePreAuthorized", "Error"),
)
_BRASILIA = timezone(timedelta(hours=-3))

# Nobody's: names of the kind that documentation uses.
_NAMES = ("Ana Exemplo", "José Modelo", "Ada Example", "Max Muster", "Jane Sample", "Zoë Specimen")
_STREETS = ("Example Street", "Sample Avenue", "Rua Exemplo", "Musterstraße", "Market Square")
