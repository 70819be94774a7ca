"""What the documents promise, folded naively: written from their words, not from the product's code.

It knows only the shapes that tests/support/generated_deliveries.py makes up. Whatever it cannot read raises, and is
quarantined.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

Json = dict[str, Any]


class Sent(NamedTuple):
    """A delivery as it stands in the log; `body` is bytes where it is not JSON.

    `filed_under` is the end of the stream that an older decoder filed it in, tenant, kind and id, if not its own.
    """

    provider: str
    topic: str
    merchant_id: str
    program_id: str | None
    body: Json | bytes
    received_at: datetime
    filed_under: str | None = None


class Expected(NamedTuple):
    """The states by stream, and the indexes of the deliveries that are ignored, quarantined, or repeat another."""

    states: dict[str, Json]
    ignored: set[int]
    quarantined: set[int]
    repeats: set[int]


class Change(NamedTuple):
    """What a delivery says: the fields it gives, and the provider's own time of the change.

    `until` is the last instant that the time of a deletion may mean.
    """

    stream: str
    given: Json
    time: datetime | None
    created: bool = False
    deleted: bool = False
    deleted_at: datetime | None = None
    until: datetime | None = None


class Place(NamedTuple):
    """Where a change stands among those of its thing: nothing else decides which of two is the newer."""

    time: datetime
    deleted: bool
    rank: int
    position: int


COMMON = ("provider", "merchant_id", "program_id", "id", "created_at", "updated_at", "deleted_at")
FIELDS = {
    "gift_cards": (*COMMON, "type", "status", "balance", "currency", "code", "gan"),
    "transactions": (
        *(*COMMON, "kind", "method", "status", "phase", "amount", "tip", "currency"),
        *("gift_card_id", "location_id", "reference"),
    ),
    "locations": (*COMMON, "name", "status", "type", "external_id"),
}
PROJECTIONS = {"gift-card": "gift_cards", "transaction": "transactions", "location": "locations"}
LOOPZ_TOPICS = {
    f"{kind}.{what}"
    for kind, whats in {
        "gift-card": ("created", "updated", "deleted"),
        "transaction": ("created", "updated", "deleted"),
        "location": ("created", "updated"),
    }.items()
    for what in whats
}
FITBANK_KINDS = {
    "UpdatePurchaseClosedLoopStatusMongo": "purchase",
    "UpdateDepositClosedLoopStatusMongo": "withdrawal",
    "UpdateWithdrawalClosedLoopStatusMongo": "deposit",
}
PHASES = {
    "loopz": {"PENDING": "created", "COMPLETED": "settled", "VOIDED": "canceled"},
    "fitbank": {
        "Created": "created",
        "CanBePreAuthorized": "created",
        "Authorized": "authorized",
        "PreSettled": "settling",
        "Canceled": "canceled",
    },
}
# At one time, the later of these is the newer.
RANKS = {"unknown": 0, "created": 1, "authorized": 2, "settling": 3, "settled": 4, "canceled": 5}


def expect(
    projection: str, log: Sequence[Sent], recorded: Sequence[datetime] | None = None
) -> Expected:
    """Fold a log, in its order; `recorded` is when each was recorded, or else when it was received."""
    expected = Expected({}, set(), set(), set())
    changes: dict[str, list[tuple[Place, Change, Sent]]] = {}
    for index, sent in enumerate(log):
        if projection_of(sent) != projection:
            expected.ignored.add(index)
            continue
        try:
            change = read_fitbank(sent) if sent.provider == "fitbank" else read_loopz(sent)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            expected.quarantined.add(index)
            continue
        recorded_at = sent.received_at if recorded is None else recorded[index]
        place = Place(
            change.until or change.time or recorded_at, change.deleted, rank(change), index
        )
        known = changes.setdefault(change.stream, [])
        if repeats(change, place, known):
            expected.repeats.add(index)
        else:
            known.append((place, change, sent))
    for stream, known in changes.items():
        expected.states[stream] = state_of(
            FIELDS[projection], sorted(known, key=lambda one: one[0])
        )
    return expected


def rank(change: Change) -> int:
    """At one time, what is further along is the newer."""
    return RANKS[change.given.get("phase", "unknown")]


def repeats(change: Change, place: Place, known: Sequence[tuple[Place, Change, Sent]]) -> bool:
    """It says what another said of that time; without a time, what the newest one said, which has none either."""
    if change.time is None:
        newest = max(known, key=lambda one: one[0], default=None)
        return newest is not None and newest[1] == change
    return any(other == change for at, other, _ in known if at.time == place.time)


def state_of(fields: Sequence[str], known: Sequence[tuple[Place, Change, Sent]]) -> Json:
    """Fold what is known of a thing, from the oldest to the newest."""
    state: Json = dict.fromkeys(fields)
    deleted_at = None
    for place, change, sent in known:
        if change.created and deleted_at is not None:
            state, deleted_at = dict.fromkeys(fields), None
        # An absent field keeps its value, an explicit null clears it.
        state |= change.given
        state |= {"provider": sent.provider, "merchant_id": sent.merchant_id}
        state["updated_at"] = change.time or state["updated_at"]
        if change.deleted:
            deleted_at = change.deleted_at or change.time or place.time
    state["deleted_at"] = deleted_at
    if "phase" in state and state["phase"] is None:
        state["phase"] = "unknown"
    return state


def projection_of(sent: Sent) -> str | None:
    """The projection that a topic concerns; none for a topic that the provider does not document."""
    if sent.provider == "fitbank":
        return "transactions" if sent.topic in FITBANK_KINDS else None
    return PROJECTIONS[sent.topic.split(".")[0]] if sent.topic in LOOPZ_TOPICS else None


def read_loopz(sent: Sent) -> Change:
    """A snapshot: bare, or wrapped under its kind."""
    kind, what = sent.topic.split(".")
    body = json_of(sent)
    if "id" not in body:
        camel = {"gift-card": "giftCard"}.get(kind, kind)
        body = next(iter(twin(body, kind.replace("-", "_"), camel)), body)
    id_ = identity(body["id"])
    given: Json = {"id": id_}
    created = twin(body, "created_on", "createdOn", "created_at", "createdAt")
    if created:
        given["created_at"] = time_of(created[0])
    for name in ("status", "type", "name", "code", "gan"):
        if name in body:
            given[name] = text(body[name])
    if kind == "gift-card":
        given |= money(body, "balance", "balance", "currency")
    if kind == "transaction":
        given |= transaction_of(body, given)
    if kind == "location" and (external := twin(body, "external_id", "externalId")):
        given["external_id"] = text(external[0])
    if sent.program_id is not None:
        given["program_id"] = sent.program_id
    updated = twin(body, "updated_on", "updatedOn", "updated_at", "updatedAt")
    time = time_of(updated[0]) if updated else None
    stream = f"loopz/{sent.merchant_id}/{kind}/{quote(id_, safe='')}"
    if what != "deleted":
        return Change(stream, given, time, created=what == "created")
    gone = twin(body, "deleted_on", "deletedOn", "deleted_at", "deletedAt")
    deleted_at = time_of(gone[0]) if gone else None
    # A snapshot's updated_on may be older than its deletion: the change is the deletion.
    time = max((t for t in (time, deleted_at) if t), default=None)
    until = max(
        (last_instant(said[0]) for said in (gone, updated) if said and said[0]), default=None
    )
    return Change(stream, given, time, deleted=True, deleted_at=deleted_at, until=until)


def transaction_of(body: Json, given: Json) -> Json:
    """Every field of a Loopz transaction is assumed."""
    read = money(body, "amount", "amount", "currency")
    tip = money(body, "tip", "tip", "currency")
    if "currency" not in read and "currency" in body:
        read["currency"] = text(body["currency"])
    # There is one currency for both.
    if (currency := tip.pop("currency", None)) is not None:
        if read.get("currency") not in {None, currency}:
            raise ValueError
        read["currency"] = currency
    read |= tip
    for name in ("amount", "tip"):
        if read.get(name) is not None:
            read[name] = Decimal(read[name]) / 100
    for name, camel in (("gift_card_id", "giftCardId"), ("location_id", "locationId")):
        if found := twin(body, name, camel):
            read[name] = text(found[0])
    if "type" in given:
        read["method"] = given.pop("type")
        read["kind"] = None if read["method"] is None else read["method"].lower()
    if "status" in given:
        read["phase"] = PHASES["loopz"].get(given["status"] or "", "unknown")
    return read


def read_fitbank(sent: Sent) -> Change:
    """A change of status: flat, with numbers and strings for one another."""
    body = json_of(sent)
    reference = identity(body["Identifier"]) if "Identifier" in body else None
    id_ = identity(body["TransactionIdentifier"]) if "TransactionIdentifier" in body else reference
    if id_ is None:
        raise ValueError
    given: Json = {"id": id_, "kind": FITBANK_KINDS[sent.topic], "method": sent.topic}
    time = time_of(body["Date"]) if "Date" in body else None
    if "Status" in body:
        given["status"] = text(body["Status"])
        given["phase"] = PHASES["fitbank"].get(given["status"], "unknown")
        if given["status"] == "Created" and time is not None:
            given["created_at"] = time
    if "TotalValue" in body:
        value = body["TotalValue"]
        given["amount"] = None if value is None else Decimal(str(value))
    if reference is not None:
        given["reference"] = reference
    stream = f"fitbank/{sent.merchant_id}/transaction/{quote(id_, safe='')}"
    return Change(stream, given, time)


def json_of(sent: Sent) -> Json:
    """The body, if it is JSON."""
    if isinstance(sent.body, bytes):
        raise TypeError
    return sent.body


def twin(body: Json, *names: str) -> list[Any]:
    """The value of a field that goes by several names, or nothing."""
    return [body[name] for name in names if name in body][:1]


def identity(value: object) -> str:
    """An id is text or a whole number."""
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise TypeError
    return str(value)


def text(value: object) -> str | None:
    """A text, or a number as it is written."""
    if not isinstance(value, str | int | None):
        raise TypeError
    return None if value is None else str(value)


def time_of(value: object) -> datetime | None:
    """ISO 8601, UTC where there is no offset, or seconds since 1970."""
    if value is None:
        return None
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return datetime.fromtimestamp(value, UTC)


def last_instant(value: str | int) -> datetime:
    """The end of the unit in which a time is given: of its second, if it has no fraction."""
    moment = time_of(value)
    assert moment is not None
    _, dot, rest = str(value).partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789")) if dot else 0
    unit = timedelta(microseconds=10 ** (6 - digits))
    return moment + unit - timedelta(microseconds=1)


def money(body: Json, name: str, amount: str, currency: str) -> Json:
    """Cents, bare or in an object with their currency."""
    if name not in body:
        return {}
    value = body[name]
    if not isinstance(value, dict):
        return {amount: cents(value)}
    read: Json = {}
    if "amount" in value:
        read[amount] = cents(value["amount"])
    for key in ("currencyCode", "currency"):
        if key in value:
            read[currency] = text(value[key])
    return read


def cents(value: object) -> int | None:
    """A whole number, or a text that is one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return int(value)
