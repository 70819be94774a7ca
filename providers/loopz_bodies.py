"""The bodies of Loopz's deliveries: their fields, and which object in them is the thing that they are about.

Everything is read as it is written, or not at all: see providers/parsing.py.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from providers.parsing import Reader, decoder_of, fields_of, identity, parse_exactly, text
from providers.provider import UndecodableError

# The names under which a body of each kind may be wrapped.
WRAPPERS: Mapping[str, tuple[str, ...]] = {
    "gift-card": ("gift_card", "giftCard"),
    "transaction": ("transaction",),
    "location": ("location",),
}


class Money(msgspec.Struct):
    """An amount with its currency."""

    amount: Any = UNSET
    currencyCode: Any = UNSET  # noqa: N815 - their spelling
    currency_code: Any = UNSET
    currency: Any = UNSET


# What may stand where an object is expected; not a float, which is read exactly instead.
_Other: TypeAlias = list[Any] | str | int | bool | UnsetType | None

_Text: TypeAlias = str | UnsetType | None

# What holds others, as msgspec reads it; in a tuple, since to look into a union of types takes long.
_OBJECTS = (msgspec.Struct, list)

# Some fields are documented and not read: one that is there twice, with different values, is refused all the same.


class _OtherNames(msgspec.Struct, kw_only=True):
    """Each time under every other name that was seen or may be expected.

    `kw_only` has them come last, where they do not hold up the search for a name.
    """

    created_at: Any = UNSET
    createdOn: Any = UNSET  # noqa: N815
    createdAt: Any = UNSET  # noqa: N815
    updated_at: Any = UNSET
    updatedOn: Any = UNSET  # noqa: N815
    updatedAt: Any = UNSET  # noqa: N815
    deleted_on: Any = UNSET
    deleted_at: Any = UNSET
    deletedOn: Any = UNSET  # noqa: N815
    deletedAt: Any = UNSET  # noqa: N815


class Body(_OtherNames):
    """The fields that every body may have."""

    id: Any = UNSET
    type: _Text = UNSET
    status: _Text = UNSET
    created_on: Any = UNSET
    updated_on: Any = UNSET


class _PaymentDetails(msgspec.Struct):
    type: Any = UNSET
    reason: Any = UNSET


class _FundingSource(msgspec.Struct):
    id: Any = UNSET
    type: Any = UNSET
    payment_details: _PaymentDetails | _Other = UNSET


class GiftCard(Body):
    """The fields of a card, or of an object around it."""

    code: _Text = UNSET
    gan: _Text = UNSET
    balance: Money | _Other = UNSET
    currency: _Text = UNSET
    currencyCode: _Text = UNSET  # noqa: N815
    recipient_name: Any = UNSET
    recipient_email: Any = UNSET
    front_design_image_url: Any = UNSET
    back_design_image_url: Any = UNSET
    funding_source: _FundingSource | _Other = UNSET
    gift_card: "GiftCard | _Other" = UNSET
    giftCard: "GiftCard | _Other" = UNSET  # noqa: N815


class Transaction(Body):
    """The fields of a transaction, or of an object around it."""

    amount: Money | _Other = UNSET
    tip: Money | _Other = UNSET
    currency: _Text = UNSET
    currencyCode: _Text = UNSET  # noqa: N815
    gift_card_id: Any = UNSET
    giftCardId: Any = UNSET  # noqa: N815
    location_id: Any = UNSET
    locationId: Any = UNSET  # noqa: N815
    transaction: "Transaction | _Other" = UNSET


class Location(Body):
    """The fields of a location, or of an object around it."""

    name: _Text = UNSET
    external_id: Any = UNSET
    externalId: Any = UNSET  # noqa: N815
    location: "Location | _Other" = UNSET


class Envelope(msgspec.Struct):
    """The fields of any body that are needed to find its id."""

    id: Any = UNSET
    gift_card: Any = UNSET
    giftCard: Any = UNSET  # noqa: N815
    transaction: Any = UNSET
    location: Any = UNSET


ENVELOPE = decoder_of(Envelope)

# The objects in an object, and what they are read as.
_NESTED: Mapping[type[msgspec.Struct], Mapping[str, type[msgspec.Struct]]] = {
    GiftCard: {
        "balance": Money,
        "funding_source": _FundingSource,
        "gift_card": GiftCard,
        "giftCard": GiftCard,
    },
    _FundingSource: {"payment_details": _PaymentDetails},
    Transaction: {"amount": Money, "tip": Money, "transaction": Transaction},
    Location: {"location": Location},
}


class Shape(msgspec.Struct, frozen=True):
    """What bodies about one kind of thing are read as.

    `texts` are the fields of `type` that are texts, `own` those that an envelope would not have.
    """

    kind: str
    type: type[Body]
    own: tuple[str, ...]
    reader: Reader[Any]
    texts: tuple[str, ...]


def _shape(kind: str, type_: type[Body], *own: str) -> Shape:
    texts = tuple(field.name for field in msgspec.structs.fields(type_) if field.type == _Text)
    return Shape(kind, type_, own, Reader(type_), texts)


GIFT_CARD = _shape("gift-card", GiftCard, "balance", "code", "gan")
TRANSACTION = _shape(
    "transaction",
    Transaction,
    *("amount", "tip", "gift_card_id", "giftCardId", "location_id", "locationId"),
)
LOCATION = _shape("location", Location, "name", "external_id", "externalId")


def id_in(kind: str, body: Envelope) -> str | None:
    """The id of the thing, if there is no doubt which it is: see `_settled`."""
    names = WRAPPERS.get(kind, ())
    found = [each for name in names if isinstance(each := getattr(body, name), (dict, list))]
    if body.id is not UNSET:
        return None if found else identity(body.id)
    if len(found) != 1 or not isinstance(inner := found[0], dict):
        return None
    wrapped_again = any(isinstance(inner.get(name), (dict, list)) for name in names)
    return None if wrapped_again else identity(inner.get("id"))


def read_gift_card(body: bytes) -> GiftCard:
    """Read a card, as `_settled` does; most are plain."""
    card: GiftCard | None = GIFT_CARD.reader.read(body)
    if (
        card is not None
        and card.balance is not UNSET
        and card.gift_card is UNSET
        and card.giftCard is UNSET
    ):
        return card
    settled: GiftCard = _settled(GIFT_CARD, body, card)
    return settled


def read_transaction(body: bytes) -> Transaction:
    """Read a transaction, likewise."""
    found: Transaction | None = TRANSACTION.reader.read(body)
    if found is not None and found.amount is not UNSET and found.transaction is UNSET:
        return found
    settled: Transaction = _settled(TRANSACTION, body, found)
    return settled


def read_location(body: bytes) -> Location:
    """Read a location, likewise."""
    settled: Location = _settled(LOCATION, body, LOCATION.reader.read(body))
    return settled


def _settled(shape: Shape, body: bytes, thing: Any | None) -> Any:  # noqa: ANN401 - a shape.type
    """The object that a body is about: itself, or what is under a wrapper of its kind if it has no id.

    `thing` is how the body was read, None if not quickly. Raises UndecodableError where it is in doubt what the body
    is about, as the id may be that of an envelope, and where a field holds what it cannot, or is there twice.
    """
    if thing is None:
        thing = _unwrapped(shape, _nested(shape.type, parse_exactly(body)))
        for name in shape.texts:
            setattr(thing, name, text(getattr(thing, name), name))
    else:
        for name in WRAPPERS[shape.kind]:
            if getattr(thing, name) is not UNSET:
                thing = _unwrapped(shape, thing)
                break
    for name in shape.own:
        if getattr(thing, name) is not UNSET:
            return thing
    if body.count(b"{") > 1:
        _refuse_envelope(shape, body)
    return thing


def _nested(type_: type[msgspec.Struct], found: Mapping[str, Any]) -> msgspec.Struct:
    """Make the Structs that msgspec would make."""
    struct = fields_of(type_, found)
    for name, inner in _NESTED.get(type_, {}).items():
        if isinstance(value := getattr(struct, name), dict):
            setattr(struct, name, _nested(inner, value))
    return struct


def _unwrapped(shape: Shape, body: Any) -> Any:  # noqa: ANN401 - a shape.type
    wrapped = _wrapped(shape, body)
    if not wrapped:
        return body
    inner = getattr(body, wrapped[0])
    sole = body.id is UNSET and len(wrapped) == 1 and isinstance(inner, shape.type)
    if sole and not _wrapped(shape, inner):
        return inner
    raise UndecodableError(field=wrapped[0], problem="may or may not be what the body is about")


def _wrapped(shape: Shape, body: Body) -> list[str]:
    """The wrappers of its kind that a body has."""
    return [name for name in WRAPPERS[shape.kind] if isinstance(getattr(body, name), _OBJECTS)]


def _refuse_envelope(shape: Shape, body: bytes) -> None:
    """Raise UndecodableError if an object inside may be the thing, of which the body itself says nothing but an id."""
    found = parse_exactly(body)
    if "id" not in found:
        return
    known = _NESTED[shape.type]
    telling = {"id", *shape.own, *(name for names in WRAPPERS.values() for name in names)}
    inside = [value for name, value in found.items() if name not in known]
    while inside:
        value = inside.pop()
        if isinstance(value, dict):
            if telling & value.keys():
                raise UndecodableError(field="id", problem="may be that of an envelope")
            inside.extend(value.values())
        elif isinstance(value, list):
            inside.extend(value)
