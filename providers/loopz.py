"""Loopz: gift cards, their transactions, and locations (docs.loopz.io/reference/webhooks; docs/providers.md).

Topic and tenant are in the headers; the body is a snapshot of what changed, bare or wrapped under its kind.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET
from multidict import istr

from eventstore.log.events import Event
from eventstore.log.streams import stream_name, stream_name_if_not, stream_part, stream_prefix
from eventstore.query.money import MinorUnits
from providers.amounts import (
    MINOR_DIGITS,
    MOST_CENTS,
    CurrencyCode,
    MinorDigits,
    cents,
    currency_code,
    major_of_minor,
    units_of,
)
from providers.facts import Fact, GiftCardFact, Given, LocationFact, Phase, TransactionFact
from providers.loopz_bodies import (
    ENVELOPE,
    Body,
    Envelope,
    GiftCard,
    Location,
    Money,
    Transaction,
    id_in,
    read_gift_card,
    read_location,
    read_transaction,
)
from providers.parsing import first, identity, other_identity, parse_object
from providers.provider import (
    Example,
    Provider,
    Recognised,
    UndecodableError,
    checked_name,
    header_values,
)
from providers.times import (
    SECONDS_AHEAD,
    SecondsAhead,
    check_not_ahead,
    known_time,
    last_instant,
    time,
)
from verification.verifier import Verification

NAME: Final = "loopz"

TOPIC_HEADER = "X-LOOPZ-WEBHOOK-TOPIC"
MERCHANT_HEADER = "X-LOOPZ-MERCHANT-ID"
PROGRAM_HEADER = "X-LOOPZ-PROGRAM-ID"
SUBSCRIPTION_HEADER = "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID"
IDENTITY_HEADERS = (TOPIC_HEADER, MERCHANT_HEADER, PROGRAM_HEADER)
# Names that need not be folded to one case each time they are looked up.
NAMED_HEADERS = tuple(map(istr, (*IDENTITY_HEADERS, SUBSCRIPTION_HEADER)))

# From few merchants come most deliveries.
SENDERS_REMEMBERED = 1_000

TOPICS: Mapping[str, type[Fact]] = {
    "gift-card.created": GiftCardFact,
    "gift-card.updated": GiftCardFact,
    "gift-card.deleted": GiftCardFact,
    "transaction.created": TransactionFact,
    "transaction.updated": TransactionFact,
    "transaction.deleted": TransactionFact,
    "location.created": LocationFact,
    "location.updated": LocationFact,
}

EXAMPLE = Example(
    headers={
        TOPIC_HEADER: "location.updated",
        MERCHANT_HEADER: "m-1",
        PROGRAM_HEADER: "p-1",
        SUBSCRIPTION_HEADER: "s-1",
    },
    body=(
        b'{"id":"72b8ebd8-ea23-44a5-b8d1-b727d80ecd1a","name":"My Location",'
        b'"status":"ACTIVE","type":"PHYSICAL"}'
    ),
)

# Assumed: the documentation names neither the types of a transaction nor its statuses.
KINDS: Mapping[str, str] = {"REDEMPTION": "redeem", "REDEEMED": "redeem", "TOP_UP": "topup"}
PHASES: Mapping[str, Phase] = {
    "CREATED": "created",
    "PENDING": "created",
    "AUTHORIZED": "authorized",
    "APPROVED": "settled",
    "COMPLETE": "settled",
    "COMPLETED": "settled",
    "SETTLED": "settled",
    "SUCCESS": "settled",
    "SUCCEEDED": "settled",
    "CANCELED": "canceled",
    "CANCELLED": "canceled",
    "VOIDED": "canceled",
    "DECLINED": "failed",
    "ERROR": "failed",
    "FAILED": "failed",
}


# The fields of `Fact`, in their order.
_Common: TypeAlias = tuple[
    str,
    str,
    str | None,
    str,
    datetime,
    datetime | None,
    Given[datetime],
    bool,
    bool,
    datetime | None,
    datetime | None,
]


class Merchant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one merchant's deliveries leave out, or mean otherwise.

    `currency` is that of an amount that comes without one. `minor_units`: the digits behind the point, by currency.
    """

    currency: CurrencyCode | None = None
    minor_units: dict[CurrencyCode, MinorDigits] = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings for what Loopz does not say.

    `verification`: how deliveries are verified; Loopz documents no way. `minor_units`: where what Loopz calls cents
    is not the minor unit of ISO 4217, for all merchants; `merchants` by merchant id. `seconds_ahead`: how long after a
    delivery was received its time may be.
    """

    verification: Verification = Verification()
    minor_units: dict[CurrencyCode, MinorDigits] = {}
    merchants: dict[str, Merchant] = {}
    seconds_ahead: SecondsAhead = SECONDS_AHEAD


class Rules(msgspec.Struct, frozen=True):
    """How amounts of one merchant are read: the currency of those without one, and each currency's minor unit."""

    currency: str | None
    units: Mapping[str, Decimal]


USUAL_RULES = Rules(None, units_of(MINOR_DIGITS))
NO_RULES: Mapping[str, Rules] = {}


def provider(settings: Settings) -> Provider:
    """Make the provider."""
    usual = Rules(None, {**USUAL_RULES.units, **units_of(settings.minor_units)})
    rules = {
        merchant_id: Rules(merchant.currency, {**usual.units, **units_of(merchant.minor_units)})
        for merchant_id, merchant in settings.merchants.items()
    }

    # As an object, so that the fingerprint finds the decoder that is used, should it be replaced.
    read = decode
    ahead = timedelta(seconds=settings.seconds_ahead)

    def decode_with_settings(event: Event) -> Fact:
        fact = read(event, rules, usual)
        updated_at = fact.updated_at
        if (updated_at is not None and updated_at > event.received_at) or fact.deleted:
            check_not_ahead(updated_at, event.received_at, ahead, "updated_on")
            check_not_ahead(fact.deleted_at, event.received_at, ahead, "deleted_on")
        return fact

    return Provider(
        name=NAME,
        topics=TOPICS,
        recognise=recognise,
        decode=decode_with_settings,
        stream_of=stream_of,
        example=EXAMPLE,
        identity_headers=IDENTITY_HEADERS,
        kept_headers=(SUBSCRIPTION_HEADER,),
        decoding_settings={
            "currencies": MINOR_DIGITS,
            "minor_units": settings.minor_units,
            "merchants": msgspec.to_builtins(settings.merchants),
            "seconds_ahead": settings.seconds_ahead,
        },
        minor_units=MinorUnits(
            {**MINOR_DIGITS, **settings.minor_units},
            {
                merchant_id: merchant.minor_units
                for merchant_id, merchant in settings.merchants.items()
                if merchant.minor_units
            },
        ),
    )


def recognise(headers: Mapping[str, str], body: bytes) -> Recognised:
    """Topic and tenant from the headers, the id from the body."""
    named, merchant, program, subscription_id = header_values(headers, NAMED_HEADERS)
    topic, merchant_id, program_id, kind, streams = _sender(named, merchant, program)
    id_ = id_in(kind, parse_object(body, ENVELOPE, Envelope))
    return Recognised(
        topic, merchant_id, program_id, f"{streams}{stream_part(id_)}", subscription_id
    )


@lru_cache(SENDERS_REMEMBERED)
def _sender(
    topic: str | None, merchant_id: str | None, program_id: str | None
) -> tuple[str, str, str | None, str, str]:
    """Check what the headers say: topic, merchant, program, kind, and how streams begin. Raises UnidentifiedError."""
    topic = checked_name(topic, f"the header {TOPIC_HEADER}")
    merchant_id = checked_name(merchant_id, f"the header {MERCHANT_HEADER}")
    program_id = program_id or None
    if program_id is not None:
        checked_name(program_id, f"the header {PROGRAM_HEADER}")
    kind = _kind(topic)
    return topic, merchant_id, program_id, kind, stream_prefix(NAME, merchant_id, kind)


def decode(event: Event, rules: Mapping[str, Rules] = NO_RULES, usual: Rules = USUAL_RULES) -> Fact:
    """Read a snapshot, by the rules of its merchant or the usual ones. Raises UndecodableError."""
    read, make, created, deleted = _READERS[event.topic]
    body = read(event.body)
    common = _common(event, body, created, deleted)
    return make(body, common, rules.get(event.merchant_id, usual) if rules else usual)


def stream_of(event: Event, fact: Fact | None) -> str:
    """The stream of the thing that an event is about. Raises UnparsableError if it has no fact, and no JSON either."""
    kind = _KIND_OF_TOPIC[event.topic]
    if fact is not None:
        return stream_name_if_not(event.stream, NAME, event.merchant_id, kind, fact.id)
    id_ = id_in(kind, parse_object(event.body, ENVELOPE, Envelope))
    return stream_name(NAME, event.merchant_id, kind, id_)


def _common(event: Event, body: Body, created: bool, deleted: bool) -> _Common:  # noqa: FBT001 - quicker so
    """The fields that every fact has."""
    id_ = body.id
    if (type(id_) is not str or not id_) and (id_ := identity(id_)) is None:
        raise UndecodableError(field="id", problem="is missing or neither text nor a whole number")
    updated = body.updated_on
    if updated is UNSET:
        updated = first(body.updated_at, body.updatedOn, body.updatedAt)
    updated_at = time(updated, "updated_on")
    made = body.created_on
    if made is UNSET:
        made = first(body.created_at, body.createdOn, body.createdAt)
    # They are the same when it is made.
    created_at = updated_at if type(made) is str and made == updated else time(made, "created_on")
    if updated_at is UNSET:
        updated_at = None
    deleted_at = deleted_by = None
    if deleted:
        gone = first(body.deleted_on, body.deleted_at, body.deletedOn, body.deletedAt)
        deleted_at = known_time(gone, "deleted_on")
        deleted_by = _later(last_instant(gone, deleted_at), last_instant(updated, updated_at))
    return (
        NAME,
        event.merchant_id,
        event.program_id,
        id_,
        event.received_at,
        updated_at,
        created_at,
        created,
        deleted,
        deleted_at,
        deleted_by,
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


# The fields of a fact are given by position: by name would take twice the time.


def _gift_card_fact(body: GiftCard, common: _Common, rules: Rules) -> GiftCardFact:
    balance, currency = _money(body.balance, "balance", rules)
    if currency is UNSET:
        currency = _currency_beside(body)
    if not currency and rules.currency and isinstance(balance, int):
        currency = rules.currency
    return GiftCardFact(
        *common,
        body.type,
        body.status,
        balance,
        currency,
        body.code,
        body.gan,
    )


def _transaction_fact(body: Transaction, common: _Common, rules: Rules) -> TransactionFact:
    amount, currency = _money(body.amount, "amount", rules)
    if currency is UNSET:
        currency = _currency_beside(body)
    tip: Given[int] = UNSET
    if body.tip is not UNSET:
        tip, currency_of_tip = _money(body.tip, "tip", rules)
        if not currency:
            currency = currency_of_tip or currency
        elif currency_of_tip and currency_of_tip != currency:
            raise UndecodableError(field="tip", problem="is in another currency than the amount")
    if not currency and rules.currency and (isinstance(amount, int) or isinstance(tip, int)):
        currency = rules.currency
    method = body.type
    status = body.status
    card = body.giftCardId if body.gift_card_id is UNSET else body.gift_card_id
    place = body.locationId if body.location_id is UNSET else body.location_id
    return TransactionFact(
        *common,
        KINDS.get(method.upper(), method.lower()) if isinstance(method, str) else method,
        method,
        status,
        UNSET if status is UNSET else PHASES.get((status or "").upper(), "unknown"),
        major_of_minor(amount, currency, rules.units, "amount"),
        UNSET if tip is UNSET else major_of_minor(tip, currency, rules.units, "tip"),
        currency,
        card if type(card) is str else other_identity(card, "gift_card_id"),
        place if type(place) is str else other_identity(place, "location_id"),
    )


def _currency_beside(body: GiftCard | Transaction) -> Given[str]:
    """The currency of an amount that has none in itself."""
    return currency_code(body.currencyCode if body.currency is UNSET else body.currency, "currency")


def _location_fact(body: Location, common: _Common, _: Rules) -> LocationFact:
    return LocationFact(
        *common,
        body.name,
        body.status,
        body.type,
        other_identity(first(body.external_id, body.externalId), "external_id"),
    )


def _kind(topic: str) -> str:
    """The kind of thing that a topic is about: the part before the dot, also of a topic that we do not know."""
    return topic.partition(".")[0] or topic


_READER_OF_KIND: Mapping[
    str, tuple[Callable[[bytes], Any], Callable[[Any, _Common, Rules], Fact]]
] = {
    "gift-card": (read_gift_card, _gift_card_fact),
    "transaction": (read_transaction, _transaction_fact),
    "location": (read_location, _location_fact),
}

_KIND_OF_TOPIC = {topic: _kind(topic) for topic in TOPICS}

# With whether it is a creation, and whether a deletion.
_READERS = {
    topic: (*_READER_OF_KIND[_kind(topic)], topic.endswith(".created"), topic.endswith(".deleted"))
    for topic in TOPICS
}


def _money(value: Any, field: str, rules: Rules) -> tuple[Given[int], Given[str]]:  # noqa: ANN401 - as sent
    """Read an amount of cents: an object with its currency, or a bare number without one."""
    if type(value) is not Money:
        return cents(value, field), UNSET
    amount, currency = value.amount, value.currencyCode
    if currency is UNSET:
        currency = first(value.currency_code, value.currency)
    if type(currency) is not str or currency not in rules.units:
        currency = currency_code(currency, "currency")
    # Most are plain: a call takes its time.
    return (
        amount if type(amount) is int and 0 <= amount <= MOST_CENTS else cents(amount, field)
    ), currency
