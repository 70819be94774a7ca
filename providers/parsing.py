"""Reading what a provider wrote: JSON as lenient as RFC 8259 allows, then ids and texts, as they are written."""

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from providers.facts import Given
from providers.provider import UndecodableError, UnparsableError

T = TypeVar("T")

# Python reads no integer of more digits.
MOST_INTEGER_DIGITS = 4300

# A whole number with a point or an exponent has no more: enough for a UUID, and no room for 1e400.
MOST_WHOLE_DIGITS = 39

_ESCAPED_COMMA = b"\\u002c"

# How many names that are no fields are learnt for one type of body, and how long one may be.
MOST_LEARNT = 64
LONGEST_LEARNT = 100

# A whole string, or what Python takes for a number and JSON does not.
_STRING_OR_CONSTANT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(NaN|-?Infinity)')
_PLAIN_NAME = re.compile(r'[^"\\\x00-\x1f]*').fullmatch

# A number with a point or an exponent, as it is written: no double comes between it and what is read.
Number: TypeAlias = Raw

_encode_into = msgspec.json.Encoder().encode_into

# What was read, written again: over and over in one place, since one thread reads bodies.
_again = bytearray()


class Conflict(msgspec.Struct, frozen=True):
    """Stands for a key that an object has more than once, with different values."""

    last: Any


def decoder_of(type_: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder that keeps numbers as they are written, in fields that may hold anything."""
    return msgspec.json.Decoder(type_, float_hook=Number)


_anything = decoder_of(dict[str, Any])


class Reader(Generic[T]):
    """Reads JSON objects as a Struct, quickly: what msgspec accepts, and where no key can be there twice.

    Of such a key msgspec gives the last value, and so nothing may be left out when the Struct is written again. So
    that nothing is, names that are no fields are learnt as they are met, and their values kept unread. A field that is
    not there has to be UNSET; raises ValueError for one with another default.
    """

    def __init__(self, type_: type[T]) -> None:
        for field in msgspec.structs.fields(type_):  # type: ignore[arg-type]
            if field.default is not UNSET:
                raise ValueError(field.name)
        self.type = type_
        self._names: set[str] = set(type_.__struct_fields__)  # type: ignore[attr-defined]
        self._learnt: list[str] = []
        self._decode = decoder_of(type_).decode

    def read(self, body: bytes) -> T | None:
        """Read an object; None for anything that `parse_exactly` has to judge.

        msgspec refuses some valid JSON: lone surrogate escapes, very long integers.
        """
        try:
            if not body.isascii():
                # msgspec does not look into the strings that it skips.
                body.decode()
            found = self._decode(body)
            _encode_into(found, _again)
            # It is never longer than the body, so that at the same length nothing was left out.
            if len(_again) == len(body) or not _may_lack(body):
                return found
            everything = _anything.decode(body)
            _encode_into(everything, _again)
            if _may_lack(body):
                return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        self._learn(everything)
        return found

    def _learn(self, names: Iterable[str]) -> None:
        # msgspec takes no name that JSON has to escape.
        new = [
            name
            for name in names
            if name not in self._names and len(name) <= LONGEST_LEARNT and _PLAIN_NAME(name)
        ]
        if not new or len(self._learnt) == MOST_LEARNT:
            return
        self._learnt = [*self._learnt, *new][:MOST_LEARNT]
        self._names.update(self._learnt)
        renamed = {f"learnt_{n}": name for n, name in enumerate(self._learnt)}
        fields = [(field, Raw | UnsetType, UNSET) for field in renamed]
        type_: Any = msgspec.defstruct(
            self.type.__name__, fields, bases=(self.type,), rename=renamed
        )
        self._decode = decoder_of(type_).decode


def _may_lack(body: bytes) -> bool:
    """Whether a body has more in it than what was read of it: more commas, but for those in escapes."""
    if _again.count(b",") != body.count(b","):
        return True
    return b"\\" in body and _ESCAPED_COMMA in body.lower()


def parse_exactly(body: bytes) -> dict[str, Any]:
    """Read a JSON object, with every number as it is written, and Conflict for a key with more than one value.

    Raises UnparsableError with the byte offset of what is wrong.
    """
    if body.startswith(codecs.BOM_UTF8):
        # A byte order mark may be ignored (RFC 8259, 8.1); spaces in its place keep the offsets.
        body = body.replace(codecs.BOM_UTF8, b"   ", 1)
    try:
        value = _parse_slowly(body)
    except RecursionError:
        raise UnparsableError(problem="nested too deeply", offset=_first_byte(body)) from None
    if isinstance(value, dict):
        return value
    raise UnparsableError(problem=f"it is {_json_kind(value)}", offset=_first_byte(body))


def parse_object(body: bytes, decoder: msgspec.json.Decoder[T], type_: type[T]) -> T:
    """Read some fields of a JSON object, quickly: of a key with more than one value, the last. Raises UnparsableError.

    For where a delivery belongs; what it says is for `parse_object_exactly`.
    """
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    fields = parse_exactly(body).items()
    return fields_of(type_, {k: v.last if type(v) is Conflict else v for k, v in fields})


def parse_object_exactly(body: bytes, reader: Reader[T]) -> T:
    """Read the fields of a JSON object without others inside. Raises UnparsableError, UndecodableError."""
    found = reader.read(body)
    return fields_of(reader.type, parse_exactly(body)) if found is None else found


def fields_of(type_: type[T], found: Mapping[str, Any]) -> T:
    """The fields of a Struct as an object has them. Raises UndecodableError for one with more than one value."""
    names: tuple[str, ...] = type_.__struct_fields__  # type: ignore[attr-defined]
    fields = {name: found[name] for name in names if name in found}
    for name, value in fields.items():
        if type(value) is Conflict:
            raise UndecodableError(field=name, problem="is there twice, with different values")
    return type_(**fields)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if _written(found[key]) != _written(value):
                found[key] = Conflict(value)
    return found


def _written(value: object) -> str:
    """A value as a text: otherwise True would equal 1."""
    return json.dumps(
        value, default=lambda odd: bytes(odd).hex() if type(odd) is Raw else repr(odd)
    )


def _parse_slowly(body: bytes) -> object:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise UnparsableError(problem="not valid UTF-8", offset=error.start) from None
    if not text.strip(" \t\r\n"):
        raise UnparsableError(problem="it is empty", offset=len(body))
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=Number,
            parse_int=_integer,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        problem, index = error.msg[:1].lower() + error.msg[1:], error.pos
    except _ConstantError as error:
        problem = f"{error} is not JSON"
        # All before it was read, so it is the first one outside of a string.
        index = next(m.start() for m in _STRING_OR_CONSTANT.finditer(text) if m[1])
    raise UnparsableError(problem=problem, offset=len(text[:index].encode()))


def _integer(literal: str) -> int | Number:
    """-0 is kept, as a text may be a number; what is too long for Python is kept, for an error that names the field."""
    plain = len(literal) <= MOST_INTEGER_DIGITS and literal != "-0"
    return int(literal) if plain else Number(literal)


class _ConstantError(Exception):
    """NaN, Infinity or -Infinity."""


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _first_byte(body: bytes) -> int:
    return len(body) - len(body.lstrip(b" \t\r\n"))


def _json_kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", str: "a string", list: "an array"}
    return kinds.get(type(value), "a number")


def decimal_of(number: Number) -> Decimal:
    """The exact value of a number. Raises ValueError for one that is beyond all use."""
    literal = str(number, "ascii")
    if len(literal) <= MOST_INTEGER_DIGITS:
        try:
            value = Decimal(literal)
        except InvalidOperation:
            pass
        else:
            if abs(value.adjusted()) <= MOST_INTEGER_DIGITS:
                return value
    raise ValueError(literal[:20])


def whole_of(number: Number) -> int | None:
    """The exact value of a number, if that is a whole one of at most MOST_WHOLE_DIGITS."""
    try:
        value = decimal_of(number)
    except ValueError:
        return None
    if value.adjusted() >= MOST_WHOLE_DIGITS:
        return None
    whole = int(value)
    return whole if value == whole else None


def identity(value: Any) -> str | None:  # noqa: ANN401 - whatever was sent
    """Read an id: text, or a whole number, which is the same id as its digits; None for anything else."""
    if type(value) is str:
        return value or None
    if type(value) is int:
        return str(value)
    if type(value) is Number and (whole := whole_of(value)) is not None:
        return str(whole)
    return None


def other_identity(value: Any, field: str) -> Given[str]:  # noqa: ANN401 - whatever was sent
    """Read the id of another thing, which may be absent or null. Raises UndecodableError."""
    if value is None or value is UNSET or type(value) is str:
        return value
    if (id_ := identity(value)) is None:
        raise UndecodableError(field=field, problem="is neither text nor a whole number")
    return id_


def first(*values: T | UnsetType) -> T | UnsetType:
    """The first value that was given: a field may go by several names."""
    for value in values:
        if value is not UNSET:
            return value
    return UNSET


def text(value: Any, field: str) -> Given[str]:  # noqa: ANN401 - whatever was sent
    """Read a text; a number or a boolean becomes the text that JSON has for it, as it is written."""
    if type(value) is str or value is None or value is UNSET:
        return value
    if type(value) is Number:
        return str(value, "ascii")
    if isinstance(value, int):
        return json.dumps(value)
    raise UndecodableError(field=field, problem="is not a text")
