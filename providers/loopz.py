"""Loopz: gift cards, their transactions, and locations (docs.loopz.io/reference/webhooks; docs/providers.md).

Topic and tenant are in the headers; the body is a snapshot of what changed, bare or wrapped under its kind.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from eventstore.log.events import Event
from eventstore.log.streams import stream_name
from providers.facts import Fact, GiftCardFact, Given, LocationFact, Phase, TransactionFact
from providers.parsing import (
    Scalar,
    cents,
    first,
    identity,
    known_time,
    last_instant,
    major_of_cents,
    parse_as_expected,
    parse_object,
    text,
    time,
)
from providers.provider import (
    Example,
    Provider,
    Recognised,
    UndecodableError,
    checked_name,
    header_values,
)
from verification.verifier import Verification

NAME: Final = "loopz"

TOPIC_HEADER = "X-LOOPZ-WEBHOOK-TOPIC"
MERCHANT_HEADER = "X-LOOPZ-MERCHANT-ID"
PROGRAM_HEADER = "X-LOOPZ-PROGRAM-ID"
SUBSCRIPTION_HEADER = "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID"
IDENTITY_HEADERS = (TOPIC_HEADER, MERCHANT_HEADER, PROGRAM_HEADER)
NAMED_HEADERS = (*IDENTITY_HEADERS, SUBSCRIPTION_HEADER)

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

# The type that texts are decoded as: str | None in a body as expected; else Scalar, and then each text is converted.
Text = TypeVar("Text")

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


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`verification`: how deliveries are verified; Loopz documents no way."""

    verification: Verification = Verification()


class _Money(msgspec.Struct):
    amount: Any = UNSET
    currencyCode: Scalar = UNSET  # noqa: N815 - their spelling
    currency_code: Scalar = UNSET
    currency: Scalar = UNSET


class _Body(msgspec.Struct, Generic[Text]):
    """The fields that every body may have; each time under every name that was seen or may be expected."""

    id: Any = UNSET
    type: Text | UnsetType = UNSET
    status: Text | UnsetType = UNSET
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


class _GiftCard(_Body[Text], Generic[Text]):
    gift_card: "_GiftCard[Text] | list[Any] | Scalar" = UNSET
    giftCard: "_GiftCard[Text] | list[Any] | Scalar" = UNSET  # noqa: N815
    code: Text | UnsetType = UNSET
    gan: Text | UnsetType = UNSET
    balance: _Money | Scalar = UNSET
    currency: Text | UnsetType = UNSET
    currencyCode: Text | UnsetType = UNSET  # noqa: N815


class _Transaction(_Body[Text], Generic[Text]):
    transaction: "_Transaction[Text] | list[Any] | Scalar" = UNSET
    amount: _Money | Scalar = UNSET
    tip: _Money | Scalar = UNSET
    currency: Text | UnsetType = UNSET
    currencyCode: Text | UnsetType = UNSET  # noqa: N815
    gift_card_id: Text | UnsetType = UNSET
    giftCardId: Text | UnsetType = UNSET  # noqa: N815
    location_id: Text | UnsetType = UNSET
    locationId: Text | UnsetType = UNSET  # noqa: N815


class _Location(_Body[Text], Generic[Text]):
    location: "_Location[Text] | list[Any] | Scalar" = UNSET
    name: Text | UnsetType = UNSET
    external_id: Text | UnsetType = UNSET
    externalId: Text | UnsetType = UNSET  # noqa: N815


class _Envelope(msgspec.Struct):
    """The fields of any body that are needed to find its id."""

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
        example=EXAMPLE,
        identity_headers=IDENTITY_HEADERS,
        kept_headers=(SUBSCRIPTION_HEADER,),
    )


def recognise(headers: Mapping[str, str], body: bytes) -> Recognised:
    """Topic and tenant from the headers, the id from the body."""
    topic, merchant_id, program_id, subscription_id = header_values(headers, NAMED_HEADERS)
    topic = checked_name(topic, f"the header {TOPIC_HEADER}")
    merchant_id = checked_name(merchant_id, f"the header {MERCHANT_HEADER}")
    program_id = program_id or None
    if program_id is not None:
        checked_name(program_id, f"the header {PROGRAM_HEADER}")
    kind = _kind(topic)
    id_ = identity(_unwrapped(kind, parse_object(body, _ENVELOPE, _Envelope)).id)
    return Recognised(
        topic,
        merchant_id,
        program_id,
        stream_name(NAME, merchant_id, kind, id_),
        subscription_id,
    )


def decode(event: Event) -> Fact:
    """Read a snapshot. Raises UndecodableError."""
    reader = _READER_OF_TOPIC[event.topic]
    body = parse_as_expected(event.body, reader.expected)
    if body is None:
        body = _body_with_texts(reader, event.body)
    elif body.id is UNSET:
        body = _unwrapped(reader.kind, body)
    id_ = identity(body.id)
    if id_ is None:
        raise UndecodableError(field="id", problem="is missing or neither text nor a whole number")
    return reader.make(body, _common(event, id_, body))


def _body_with_texts(reader: "_Reader", body: bytes) -> Any:  # noqa: ANN401 - a _Body[str | None]
    """Read what msgspec refused at first: a text may be a number or a boolean, or the body is wrong."""
    found = _unwrapped(reader.kind, parse_object(body, reader.lenient, reader.lenient_type))
    for name in reader.texts:
        setattr(found, name, text(getattr(found, name)))
    return found


def _common(event: Event, id_: str, body: _Body[str | None]) -> _Common:
    """The fields that every fact has."""
    deleted = event.topic in _DELETIONS
    deleted_at = deleted_by = None
    updated = body.updated_on
    if updated is UNSET:
        updated = first(body.updated_at, body.updatedOn, body.updatedAt)
    updated_at = time(updated, "updated_on")
    if deleted:
        gone = first(body.deleted_on, body.deleted_at, body.deletedOn, body.deletedAt)
        deleted_at = known_time(gone, "deleted_on")
        said = (last_instant(gone, deleted_at), last_instant(updated, updated_at))
        deleted_by = max((each for each in said if each is not None), default=None)
    created = body.created_on
    if created is UNSET:
        created = first(body.created_at, body.createdOn, body.createdAt)
    return (
        NAME,
        event.merchant_id,
        event.program_id,
        id_,
        event.received_at,
        None if updated_at is UNSET else updated_at,
        time(created, "created_on"),
        event.topic in _CREATIONS,
        deleted,
        deleted_at,
        deleted_by,
    )


# The fields of a fact are given by position: by name would take twice the time.


def _gift_card_fact(body: _GiftCard[str | None], common: _Common) -> GiftCardFact:
    balance, currency = _money(body.balance, "balance")
    if currency is UNSET:
        currency = first(body.currency, body.currencyCode)
    return GiftCardFact(
        *common,
        body.type,
        body.status,
        balance,
        currency,
        body.code,
        body.gan,
    )


def _transaction_fact(body: _Transaction[str | None], common: _Common) -> TransactionFact:
    amount, currency = _money(body.amount, "amount")
    tip = UNSET if body.tip is UNSET else _money(body.tip, "tip")[0]
    if currency is UNSET:
        currency = first(body.currency, body.currencyCode)
    method = body.type
    status = body.status
    return TransactionFact(
        *common,
        KINDS.get(method.upper(), method.lower()) if isinstance(method, str) else method,
        method,
        status,
        UNSET if status is UNSET else PHASES.get((status or "").upper(), "unknown"),
        major_of_cents(amount),
        major_of_cents(tip),
        currency,
        body.giftCardId if body.gift_card_id is UNSET else body.gift_card_id,
        body.locationId if body.location_id is UNSET else body.location_id,
    )


def _location_fact(body: _Location[str | None], common: _Common) -> LocationFact:
    return LocationFact(
        *common,
        body.name,
        body.status,
        body.type,
        body.externalId if body.external_id is UNSET else body.external_id,
    )


class _Reader(msgspec.Struct, frozen=True):
    """How bodies of one kind are read: as expected, then leniently. `texts` are the fields in which these differ."""

    kind: str
    expected: msgspec.json.Decoder[Any]
    lenient: msgspec.json.Decoder[Any]
    lenient_type: Any
    texts: tuple[str, ...]
    make: Callable[[Any, _Common], Fact]


def _reader(kind: str, type_: Any, make: Callable[[Any, _Common], Fact]) -> _Reader:  # noqa: ANN401 - a generic _Body
    return _Reader(
        kind=kind,
        expected=msgspec.json.Decoder(type_[str | None]),
        lenient=msgspec.json.Decoder(type_[Scalar]),
        lenient_type=type_[Scalar],
        texts=tuple(
            field.name for field in msgspec.structs.fields(type_) if field.type == Text | UnsetType
        ),
        make=make,
    )


def _kind(topic: str) -> str:
    """The kind of thing that a topic is about: the part before the dot, also of a topic that we do not know."""
    return topic.partition(".")[0] or topic


_READERS: Mapping[str, _Reader] = {
    "gift-card": _reader("gift-card", _GiftCard, _gift_card_fact),
    "transaction": _reader("transaction", _Transaction, _transaction_fact),
    "location": _reader("location", _Location, _location_fact),
}


_READER_OF_TOPIC = {topic: _READERS[_kind(topic)] for topic in TOPICS}
_CREATIONS = frozenset(topic for topic in TOPICS if topic.endswith(".created"))
_DELETIONS = frozenset(topic for topic in TOPICS if topic.endswith(".deleted"))


def _unwrapped(kind: str, body: Any) -> Any:  # noqa: ANN401 - the type that it was given
    """The object under the wrapper of this kind, if the body has no id of its own; else the body."""
    if body.id is UNSET:
        for name in WRAPPERS.get(kind, ()):
            inner = getattr(body, name)
            if isinstance(inner, type(body)):
                return inner
    return body


def _money(value: Any, field: str) -> tuple[Given[int], Given[str]]:  # noqa: ANN401 - as sent
    """Read an amount of cents: an object with its currency, or a bare number without one."""
    if not isinstance(value, _Money):
        return cents(value, field), UNSET
    currency = value.currencyCode
    if currency is UNSET:
        currency = first(value.currency_code, value.currency)
    return cents(value.amount, field), text(currency)
