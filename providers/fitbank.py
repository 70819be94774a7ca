"""FitBank Closed Loop: status of transactions at the point of sale (dev.fitbank.com.br/docs/4-webhooks-2).

Everything is in the body, flat: `Method` is the topic, `BusinessUnitId` the tenant. See docs/providers.md.
"""

from collections.abc import Mapping
from datetime import UTC, timedelta, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import UNSET

from eventstore.errors import SettingsError
from eventstore.log.events import Event
from eventstore.log.streams import stream_name, stream_name_if_not
from eventstore.query.money import MinorUnits
from providers.amounts import MINOR_DIGITS, CurrencyCode, major
from providers.facts import Fact, Phase, TransactionFact
from providers.parsing import (
    Reader,
    decoder_of,
    identity,
    other_identity,
    parse_object,
    parse_object_exactly,
    text,
)
from providers.provider import (
    Example,
    Provider,
    Recognised,
    UndecodableError,
    checked_name,
)
from providers.times import SECONDS_AHEAD, SecondsAhead, check_not_ahead, known_time
from verification.verifier import Verification

NAME: Final = "fitbank"

EXAMPLE = Example(
    headers={},
    body=(
        b'{"Method":"UpdatePurchaseClosedLoopStatusMongo","BusinessUnitId":66,"Status":"CanBePreAuthorized",'
        b'"Date":"2024-08-19T18:59:15.403415-03:00","TotalValue":"20.00",'
        b'"TransactionIdentifier":"TRA8ca7fe5d-99ce-4071-aa6c-0cfb23ee6060TRA"}'
    ),
)

# As documented, crosswise for the last two: the deposit method reports a withdrawal, and the other way round. If
# that is a mistake in the documentation, the setting `cash_methods_swapped` and a rebuild correct it.
KINDS: Mapping[str, str] = {
    "UpdatePurchaseClosedLoopStatusMongo": "purchase",
    "UpdateDepositClosedLoopStatusMongo": "withdrawal",
    "UpdateWithdrawalClosedLoopStatusMongo": "deposit",
}
SWAPPED: Mapping[str, str] = {"withdrawal": "deposit", "deposit": "withdrawal"}

# Settled and Error are assumed from sibling products; a number as status has no safe meaning.
PHASES: Mapping[str, Phase] = {
    "created": "created",
    "canbepreauthorized": "created",
    "authorized": "authorized",
    "presettled": "settling",
    "settled": "settled",
    "canceled": "canceled",
    "cancelled": "canceled",
    "error": "failed",
}


class BusinessUnit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What FitBank's deliveries leave out: the currency, and the time zone of a date without an offset."""

    currency: CurrencyCode | None = None
    time_zone: str = "UTC"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings for what FitBank does not say.

    `verification`: how deliveries are verified. `business_units` by BusinessUnitId. `cash_methods_swapped`
    if the table in the documentation is a mistake. `seconds_ahead`: how long after a delivery was received its time
    may be.
    """

    verification: Verification = Verification()
    cash_methods_swapped: bool = False
    business_units: dict[str, BusinessUnit] = {}
    seconds_ahead: SecondsAhead = SECONDS_AHEAD


class _Envelope(msgspec.Struct):
    Method: Any = UNSET
    BusinessUnitId: Any = UNSET
    TransactionIdentifier: Any = UNSET
    Identifier: Any = UNSET


class _Body(_Envelope):
    """The documented fields; one that is there twice, with different values, is refused even if unread."""

    Status: Any = UNSET
    Date: Any = UNSET
    TotalValue: Any = UNSET
    Partner: Any = UNSET
    MerchantName: Any = UNSET
    UserName: Any = UNSET
    UserAccountKey: Any = UNSET


_ENVELOPE = decoder_of(_Envelope)
_BODY = Reader(_Body)


def provider(settings: Settings) -> Provider:
    """Make the provider. Raises SettingsError for a time zone that does not exist."""
    zones = {unit: _zone(unit, about) for unit, about in settings.business_units.items()}

    ahead = timedelta(seconds=settings.seconds_ahead)

    def decode_with_settings(event: Event) -> Fact:
        fact = decode(event, settings, zones)
        if fact.updated_at is not None and fact.updated_at > event.received_at:
            check_not_ahead(fact.updated_at, event.received_at, ahead, "Date")
        return fact

    return Provider(
        name=NAME,
        topics=dict.fromkeys(KINDS, TransactionFact),
        recognise=recognise,
        decode=decode_with_settings,
        stream_of=stream_of,
        example=EXAMPLE,
        decoding_settings={
            "cash_methods_swapped": settings.cash_methods_swapped,
            "business_units": settings.business_units,
            "seconds_ahead": settings.seconds_ahead,
        },
        minor_units=MinorUnits(MINOR_DIGITS),
    )


def recognise(_: Mapping[str, str], body: bytes) -> Recognised:
    """Topic, tenant and id from the body."""
    envelope = parse_object(body, _ENVELOPE, _Envelope)
    method = envelope.Method if isinstance(envelope.Method, str) else None
    topic = checked_name(method, "the field Method")
    merchant_id = _business_unit(envelope)
    return Recognised(
        topic,
        merchant_id,
        None,
        stream_name(NAME, merchant_id, _kind(topic), _identifier(envelope)),
    )


def decode(event: Event, settings: Settings, zones: Mapping[str, tzinfo]) -> TransactionFact:
    """Read a change of status. Raises UndecodableError."""
    body = parse_object_exactly(event.body, _BODY)
    id_ = _identifier(body)
    if id_ is None:
        raise UndecodableError(
            field="TransactionIdentifier", problem="is missing or unusable, and Identifier too"
        )
    status = body.Status if type(body.Status) is str else text(body.Status, "Status")
    merchant_id = _business_unit(body)
    date = known_time(body.Date, "Date", zones.get(merchant_id, UTC))
    unit = settings.business_units.get(merchant_id)
    kind = KINDS[event.topic]
    # A number has no phase.
    word = status.lower() if status is body.Status and isinstance(status, str) else ""
    phase = PHASES.get(word, "unknown")
    # By position: by name would take twice the time.
    return TransactionFact(
        NAME,
        merchant_id,
        event.program_id,
        id_,
        event.received_at,
        date,  # updated_at
        date if word == "created" and date is not None else UNSET,  # created_at
        False,  # noqa: FBT003 - created: only a deletion asks for it, and there is none
        False,  # noqa: FBT003 - deleted
        None,  # deleted_at
        None,  # deleted_by
        SWAPPED.get(kind, kind) if settings.cash_methods_swapped else kind,
        event.topic,  # method
        status,
        UNSET if status is UNSET else phase,
        major(body.TotalValue, "TotalValue"),  # amount
        UNSET,  # tip
        unit.currency if unit is not None else UNSET,
        UNSET,  # gift_card_id
        UNSET,  # location_id
        other_identity(body.Identifier, "Identifier") or UNSET,  # reference
    )


def stream_of(event: Event, fact: Fact | None) -> str:
    """The stream of the thing that an event is about.

    Raises UnparsableError, UnidentifiedError if there is no fact, and no JSON or no tenant either.
    """
    kind = _kind(event.topic)
    if fact is not None:
        return stream_name_if_not(event.stream, NAME, fact.merchant_id, kind, fact.id)
    envelope = parse_object(event.body, _ENVELOPE, _Envelope)
    return stream_name(NAME, _business_unit(envelope), kind, _identifier(envelope))


def _kind(topic: str) -> str:
    """A transaction is one thing, whichever method reports it; unknown methods stay apart."""
    return "transaction" if topic in KINDS else topic


def _business_unit(body: _Envelope) -> str:
    """The tenant. Raises UnidentifiedError."""
    return checked_name(identity(body.BusinessUnitId), "the field BusinessUnitId")


def _identifier(body: _Envelope) -> str | None:
    """The transaction's own id, or else the client's reference, which is unique to the client."""
    own = body.TransactionIdentifier
    return identity(body.Identifier if own is UNSET or own is None or own == "" else own)


def _zone(unit: str, about: BusinessUnit) -> tzinfo:
    try:
        return ZoneInfo(about.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(
            key=f"{NAME}.business_units.{unit}.time_zone",
            problem=f"must be a time zone such as America/Sao_Paulo, not {about.time_zone!r}",
            source="settings",
        ) from None
