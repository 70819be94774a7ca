"""Acme, a made-up provider of vouchers: all in the body. The test that adds it copies this file to `providers`."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from eventstore.log.events import Event
from eventstore.log.streams import stream_name
from providers.facts import Fact, Given
from providers.parsing import Reader, decoder_of, identity, parse_object, parse_object_exactly, text
from providers.provider import (
    Example,
    Provider,
    Recognised,
    UndecodableError,
    checked_name,
)
from verification.verifier import Verification

NAME: Final = "acme"

EXAMPLE = Example(
    headers={}, body=b'{"what":"voucher.issued","shop":"s-1","id":"v-1","worth":"10"}'
)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How deliveries are verified."""

    verification: Verification = Verification()


class VoucherFact(Fact, frozen=True):
    """A voucher as it is now."""

    worth: Given[str] = UNSET


class _Body(msgspec.Struct):
    what: Any = UNSET
    shop: Any = UNSET
    id: Any = UNSET
    worth: Any = UNSET


_BODY = decoder_of(_Body)
_READER = Reader(_Body)


def provider(_: Settings) -> Provider:
    """Make the provider."""
    topics: Mapping[str, type[Fact]] = {"voucher.issued": VoucherFact, "voucher.used": VoucherFact}
    return Provider(
        name=NAME,
        topics=topics,
        recognise=recognise,
        decode=decode,
        stream_of=stream_of,
        example=EXAMPLE,
    )


def recognise(_: Mapping[str, str], body: bytes) -> Recognised:
    """Topic, tenant and id from the body."""
    found = parse_object(body, _BODY, _Body)
    topic = checked_name(found.what if isinstance(found.what, str) else None, "the field what")
    return Recognised(topic, _shop(found), None, _stream(found))


def stream_of(event: Event, _: Fact | None) -> str:
    """The stream of the voucher that an event is about."""
    return _stream(parse_object(event.body, _BODY, _Body))


def _stream(found: _Body) -> str:
    return stream_name(NAME, _shop(found), "voucher", identity(found.id))


def _shop(found: _Body) -> str:
    return checked_name(identity(found.shop), "the field shop")


def decode(event: Event) -> VoucherFact:
    """Read what is known of a voucher. Raises UndecodableError."""
    body = parse_object_exactly(event.body, _READER)
    id_ = identity(body.id)
    if id_ is None:
        raise UndecodableError(field="id", problem="is missing")
    worth = text(body.worth, "worth")
    return VoucherFact(NAME, _shop(body), None, id_, event.received_at, worth=worth)
