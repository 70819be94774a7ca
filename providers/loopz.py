"""Loopz: gift cards, their transactions, and locations (docs.loopz.io/reference/webhooks; docs/providers.md).

Topic and tenant are in the headers; the body is a snapshot of what changed, bare or wrapped under its kind.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypedDict

import msgspec
from msgspec import UNSET

from eventstore.events import Event
from providers.facts import Fact, GiftCardFact, Given, LocationFact, Phase, TransactionFact
from providers.provider import (
    Provider,
    Recognised,
    UndecodableError,
    checked_name,
    stream_name,
)
from providers.reading import (
    Scalar,
    cents,
    first,
    identity,
    known_time,
    major_of_cents,
    parse_object,
    text,
    time,
)
from verification.verifier import Verification

NAME: Final = "loopz"

TOPIC_HEADER = "X-LOOPZ-WEBHOOK-TOPIC"
MERCHANT_HEADER = "X-LOOPZ-MERCHANT-ID"
PROGRAM_HEADER = "X-LOOPZ-PROGRAM-ID"
IDENTITY_HEADERS = (TOPIC_HEADER, MERCHANT_HEADER, PROGRAM_HEADER)

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

# The names under which a body of each kind may be wrapped.
WRAPPERS: Mapping[str, tuple[str, ...]] = {
    "gift-card": ("gift_card", "giftCard"),
    "transaction": ("transaction",),
    "location": ("location",),
}

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


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`verification`: how deliveries are told from forgeries, since Loopz documents no way."""

    verification: Verification = Verification()


class _Money(msgspec.Struct):
    amount: Any = UNSET
    currencyCode: Scalar = UNSET  # noqa: N815 - their spelling
    currency_code: Scalar = UNSET
    currency: Scalar = UNSET


class _Body(msgspec.Struct):
    """What every body may hold; each time goes by the names it was seen or may be expected under."""

    id: Any = UNSET
    type: Scalar = UNSET
    status: Scalar = UNSET
    created_on: Scalar = UNSET
    created_at: Scalar = UNSET
    createdOn: Scalar = UNSET  # noqa: N815
    createdAt: Scalar = UNSET  # noqa: N815
    updated_on: Scalar = UNSET
    updated_at: Scalar = UNSET
    updatedOn: Scalar = UNSET  # noqa: N815
    updatedAt: Scalar = UNSET  # noqa: N815
    deleted_on: Scalar = UNSET
    deleted_at: Scalar = UNSET
    deletedOn: Scalar = UNSET  # noqa: N815
    deletedAt: Scalar = UNSET  # noqa: N815


class _GiftCard(_Body):
    gift_card: "_GiftCard | list[Any] | Scalar" = UNSET
    giftCard: "_GiftCard | list[Any] | Scalar" = UNSET  # noqa: N815
    code: Scalar = UNSET
    gan: Scalar = UNSET
    balance: _Money | Scalar = UNSET
    currency: Scalar = UNSET
    currencyCode: Scalar = UNSET  # noqa: N815


class _Transaction(_Body):
    transaction: "_Transaction | list[Any] | Scalar" = UNSET
    amount: _Money | Scalar = UNSET
    tip: _Money | Scalar = UNSET
    currency: Scalar = UNSET
    currencyCode: Scalar = UNSET  # noqa: N815
    gift_card_id: Scalar = UNSET
    giftCardId: Scalar = UNSET  # noqa: N815
    location_id: Scalar = UNSET
    locationId: Scalar = UNSET  # noqa: N815


class _Location(_Body):
    location: "_Location | list[Any] | Scalar" = UNSET
    name: Scalar = UNSET
    external_id: Scalar = UNSET
    externalId: Scalar = UNSET  # noqa: N815


class _Envelope(msgspec.Struct):
    """As much of any body as it takes to find the id."""

    id: Any = UNSET
    gift_card: "_Envelope | list[Any] | Scalar" = UNSET
    giftCard: "_Envelope | list[Any] | Scalar" = UNSET  # noqa: N815
    transaction: "_Envelope | list[Any] | Scalar" = UNSET
    location: "_Envelope | list[Any] | Scalar" = UNSET


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def provider(_: Settings) -> Provider:
    """Make the provider."""
    return Provider(
        name=NAME,
        topics=TOPICS,
        recognise=recognise,
        decode=decode,
        identity_headers=IDENTITY_HEADERS,
    )


def recognise(headers: Mapping[str, str], body: bytes) -> Recognised:
    """Topic and tenant from the headers, the id from the body."""
    topic = checked_name(headers.get(TOPIC_HEADER), f"the header {TOPIC_HEADER}")
    merchant_id = checked_name(headers.get(MERCHANT_HEADER), f"the header {MERCHANT_HEADER}")
    program_id = headers.get(PROGRAM_HEADER) or None
    if program_id is not None:
        checked_name(program_id, f"the header {PROGRAM_HEADER}")
    kind = _kind(topic)
    id_ = identity(_unwrapped(kind, parse_object(body, _ENVELOPE, _Envelope)).id)
    return Recognised(topic, merchant_id, program_id, stream_name(NAME, merchant_id, kind, id_))


def decode(event: Event) -> Fact:
    """Read a snapshot. Raises UndecodableError."""
    kind = _kind(event.topic)
    decoder, type_, make = _READERS[kind]
    body = _unwrapped(kind, parse_object(event.body, decoder, type_))
    id_ = identity(body.id)
    if id_ is None:
        raise UndecodableError(field="id", problem="is missing or neither text nor a whole number")
    return make(body, _common(event, id_, body))


class _Common(TypedDict):
    """What every fact says."""

    provider: str
    merchant_id: str
    program_id: str | None
    id: str
    received_at: datetime
    updated_at: datetime | None
    created_at: Given[datetime]
    deleted: bool
    deleted_at: datetime | None


def _common(event: Event, id_: str, body: _Body) -> _Common:
    updated = first(body.updated_on, body.updated_at, body.updatedOn, body.updatedAt)
    created = first(body.created_on, body.created_at, body.createdOn, body.createdAt)
    deleted_at = None
    if deleted := event.topic.endswith(".deleted"):
        gone = first(body.deleted_on, body.deleted_at, body.deletedOn, body.deletedAt)
        deleted_at = known_time(gone, "deleted_on")
    return {
        "provider": NAME,
        "merchant_id": event.merchant_id,
        "program_id": event.program_id,
        "id": id_,
        "received_at": event.received_at,
        "updated_at": known_time(updated, "updated_on"),
        "created_at": time(created, "created_on"),
        "deleted": deleted,
        "deleted_at": deleted_at,
    }


def _gift_card_fact(body: _GiftCard, common: _Common) -> GiftCardFact:
    balance, currency = _money(body.balance, "balance")
    return GiftCardFact(
        **common,
        type=text(body.type),
        status=text(body.status),
        balance=balance,
        currency=text(first(currency, body.currency, body.currencyCode)),
        code=text(body.code),
        gan=text(body.gan),
    )


def _transaction_fact(body: _Transaction, common: _Common) -> TransactionFact:
    amount, currency = _money(body.amount, "amount")
    tip, _ = _money(body.tip, "tip")
    method = text(body.type)
    status = text(body.status)
    return TransactionFact(
        **common,
        kind=KINDS.get(method.upper(), method.lower()) if isinstance(method, str) else method,
        method=method,
        status=status,
        phase=UNSET if status is UNSET else PHASES.get((status or "").upper(), "unknown"),
        amount=major_of_cents(amount),
        tip=major_of_cents(tip),
        currency=text(first(currency, body.currency, body.currencyCode)),
        gift_card_id=text(first(body.gift_card_id, body.giftCardId)),
        location_id=text(first(body.location_id, body.locationId)),
    )


def _location_fact(body: _Location, common: _Common) -> LocationFact:
    return LocationFact(
        **common,
        name=text(body.name),
        status=text(body.status),
        type=text(body.type),
        external_id=text(first(body.external_id, body.externalId)),
    )


_READERS: Mapping[
    str,
    tuple[msgspec.json.Decoder[Any], type[_Body], Callable[[Any, _Common], Fact]],
] = {
    "gift-card": (msgspec.json.Decoder(_GiftCard), _GiftCard, _gift_card_fact),
    "transaction": (msgspec.json.Decoder(_Transaction), _Transaction, _transaction_fact),
    "location": (msgspec.json.Decoder(_Location), _Location, _location_fact),
}


def _kind(topic: str) -> str:
    """The kind of thing a topic is about: what stands before the dot, known to us or not."""
    return topic.partition(".")[0] or topic


def _unwrapped(kind: str, body: Any) -> Any:  # noqa: ANN401 - the type that it was given
    """What stands under the wrapper of this kind, if the body has no id of its own; else the body."""
    if body.id is UNSET:
        for name in WRAPPERS.get(kind, ()):
            inner = getattr(body, name)
            if isinstance(inner, type(body)):
                return inner
    return body


def _money(value: Any, field: str) -> tuple[Given[int], Given[str]]:  # noqa: ANN401 - as sent
    """Read an amount of cents: an object with its currency, or a bare number without one."""
    currency: Given[str] = UNSET
    if isinstance(value, _Money):
        currency = text(first(value.currencyCode, value.currency_code, value.currency))
        value = value.amount
    return cents(value, field), currency
