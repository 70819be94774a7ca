"""Business units at FitBank: purchases, withdrawals and deposits."""

from collections.abc import Iterator
from datetime import timedelta, timezone

from simulation.world import NAMES, Body, Delivery, Life, World, encode

__all__ = ["lives"]

_HEADERS = {"Content-Type": "application/json; charset=utf-8"}
# FitBank's documentation maps the last two crosswise: a withdrawal has the method of a deposit.
_METHODS = (
    *[("PCL", "UpdatePurchaseClosedLoopStatusMongo")] * 8,
    ("WCL", "UpdateDepositClosedLoopStatusMongo"),
    ("DCL", "UpdateWithdrawalClosedLoopStatusMongo"),
)
_AUTHORIZED = ("Created", "CanBePreAuthorized", "Authorized")
# The ways a payment can go: seventeen times in twenty to the good end.
_STATUSES = (
    *[(*_AUTHORIZED, "PreSettled", "Settled")] * 17,
    (*_AUTHORIZED, "Canceled"),
    (*_AUTHORIZED, "PreSettled", "Canceled"),
    ("Created", "CanBePreAuthorized", "Error"),
)
_BRASILIA = timezone(timedelta(hours=-3))


def lives(world: World, number_of_units: int) -> Iterator[Life]:
    """Yield the lives of payments, without end."""
    units = [_BusinessUnit(world, number) for number in range(1, number_of_units + 1)]
    while True:
        yield world.pick(units).payment()


class _BusinessUnit:
    """A merchant whose sales and cash desk go through FitBank."""

    def __init__(self, world: World, number: int) -> None:
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
            "UserName": world.pick(NAMES),
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
            yield Delivery("/webhooks/fitbank", _HEADERS, encode(payment), thing)
