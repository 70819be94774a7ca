"""Merchants with a Loopz programme: their locations, gift cards and what is done with these."""

from collections.abc import Generator, Iterator

from simulation.world import NAMES, Body, Delivery, Life, World, encode

__all__ = ["lives"]

_TOPICS = (
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
# How a PENDING transaction is decided: eight times in ten for the good.
_DECISIONS = (
    *[("transaction.updated", "COMPLETED")] * 8,
    ("transaction.updated", "FAILED"),
    ("transaction.deleted", "VOIDED"),
)
_FACE_VALUES = (1_000, 1_500, 2_000, 2_500, 5_000, 7_500, 10_000, 25_000)
_CURRENCIES = ("USD", "CAD", "EUR")
_STREETS = ("Example Street", "Sample Avenue", "Rua Exemplo", "Musterstraße", "Market Square")


def lives(world: World, number_of_merchants: int) -> Iterator[Life]:
    """Yield the lives of locations and gift cards, without end."""
    merchants = [_Merchant(world, number) for number in range(1, number_of_merchants + 1)]
    for merchant in merchants:
        for location_id in merchant.location_ids:
            yield merchant.location(location_id)
    while True:
        merchant = world.pick(merchants)
        yield merchant.new_location() if world.chance(0.05) else merchant.gift_card()


class _Merchant:
    """A merchant with a Loopz programme: locations, gift cards and what is done with them."""

    def __init__(self, world: World, number: int) -> None:
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
            for topic in _TOPICS
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
                # Loopz documents no statuses of cards: these are those of its locations.
                card["status"] = "ACTIVE" if balance else "INACTIVE"
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
        if camel_case:
            transaction |= {"amount": cents, "currency": self._currency}
        yield self._delivery("transaction.created", _styled(transaction, camel_case=camel_case))
        if not pending:
            return True
        topic, status = world.pick(_DECISIONS)
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
            "status": "ACTIVE",
            "created_on": (now := world.tick()),
            "updated_on": now,
        }
        if world.chance(0.7):
            card["recipient_name"] = world.pick(NAMES)
            card["recipient_email"] = f"recipient{world.digits(6)}@example.com"
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
        return Delivery("/webhooks/loopz", self._headers[topic], encode(snapshot), thing)


def _styled(transaction: Body, *, camel_case: bool) -> Body:
    """Return a transaction as one or the other of Loopz's two ways to name fields."""
    if not camel_case:
        return transaction
    return {_CAMEL_CASE.get(name, name): value for name, value in transaction.items()}
