"""Reading what a provider wrote: JSON as lenient as RFC 8259 allows, then times, texts and amounts."""

import codecs
import json
import re
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, NoReturn, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from providers.facts import Given
from providers.provider import UndecodableError, UnparsableError

T = TypeVar("T")

Scalar: TypeAlias = str | int | float | bool | UnsetType | None

CENT = Decimal("0.01")

# Far beyond any amount, and within what decimal arithmetic keeps exactly.
MOST_DIGITS = 24

# Amounts of cents are int64.
MOST_CENTS = 2**63 - 1

# Up to here every whole number has a double of its own.
LARGEST_EXACT_FLOAT = 2**53

# Python reads no integer of more digits.
MOST_INTEGER_DIGITS = 4300

# A number of seconds since 1970 beyond this would be a year past 5000: it is milliseconds.
LARGEST_SECONDS = 100_000_000_000

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")

# Minutes, seconds and fractions of a time as text, as far as it has them.
_CLOCK = re.compile(r"[0-9][Tt ][0-9]{2}(:?[0-9]{2}(:?[0-9]{2}(?:[.,]([0-9]+))?)?)?")

_MICROSECOND = timedelta(microseconds=1)

# A whole string, or what Python takes for a number and JSON does not.
_STRING_OR_CONSTANT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(NaN|-?Infinity)')


def parse_object(body: bytes, decoder: msgspec.json.Decoder[T], type_: type[T]) -> T:
    """Decode a JSON object. Raises UnparsableError with the byte offset of what is wrong.

    Raises msgspec.ValidationError for an object that is not a `type_`. msgspec is quick but refuses some valid JSON
    (lone surrogate escapes, numbers beyond a double); what it refuses is read again by the standard library.
    """
    found = parse_as_expected(body, decoder)
    if found is not None:
        return found
    if body.startswith(codecs.BOM_UTF8):
        # A byte order mark may be ignored (RFC 8259, 8.1); spaces in its place keep the offsets.
        return parse_object(body.replace(codecs.BOM_UTF8, b"   ", 1), decoder, type_)
    try:
        value = _parse_slowly(body)
        if isinstance(value, dict):
            return msgspec.convert(value, type_)
    except RecursionError:
        raise UnparsableError(problem="nested too deeply", offset=_first_byte(body)) from None
    raise UnparsableError(problem=f"it is {_json_kind(value)}", offset=_first_byte(body))


def parse_as_expected(body: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Decode what msgspec accepts; None for anything else, which is for `parse_object` to judge."""
    try:
        if not body.isascii():
            # msgspec does not look into the strings that it skips.
            body.decode()
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _readable_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out keys with a lone surrogate: no field has such a name, and msgspec cannot read it."""
    return {key: value for key, value in pairs if key.isascii() or key.isprintable()}


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
            object_pairs_hook=_readable_keys,
            parse_int=_whole_number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        problem, index = error.msg[:1].lower() + error.msg[1:], error.pos
    except _ConstantError as error:
        problem = f"{error} is not JSON"
        # All before it was read, so it is the first one outside of a string.
        index = next(m.start() for m in _STRING_OR_CONSTANT.finditer(text) if m[1])
    raise UnparsableError(problem=problem, offset=len(text[:index].encode()))


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_INTEGER_DIGITS else float(digits)


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


def identity(value: object) -> str | None:
    """Read an id: text, or a whole number; None for anything else."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_EXACT_FLOAT:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def first(*values: T | UnsetType) -> T | UnsetType:
    """The first value that was given: a field may go by several names."""
    for value in values:
        if value is not UNSET:
            return value
    return UNSET


def text(value: Scalar) -> Given[str]:
    """Read a text; a number or a boolean becomes the text that JSON has for it."""
    if isinstance(value, str) or value is None or value is UNSET:
        return value
    return json.dumps(value)


def time(value: Scalar, field: str, zone: tzinfo = UTC) -> Given[datetime]:
    """Read a time: ISO 8601 (without an offset it is in `zone`) or seconds or milliseconds since 1970.

    The result is in UTC: two times in one zone would be compared by the wall clock, an hour off when it goes back.
    """
    if value is None or value is UNSET:
        return value
    try:
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                # RFC 3339 lets "T" and "Z" be small.
                moment = datetime.fromisoformat(value.strip().upper())
            if moment.tzinfo is UTC:
                return moment
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=zone)
            return moment.astimezone(UTC)
        if not isinstance(value, bool):
            return datetime.fromtimestamp(value / (1000 if value > LARGEST_SECONDS else 1), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise UndecodableError(field=field, problem="is not a time")


def known_time(value: Scalar, field: str, zone: tzinfo = UTC) -> datetime | None:
    """As `time`, for a field that is absent or null where the provider does not say."""
    moment = time(value, field, zone)
    return None if moment is UNSET else moment


def last_instant(value: Scalar, moment: Given[datetime]) -> datetime | None:
    """The last instant of what `value`, read as `moment`, may mean: of its second, if it has no fraction, and so on."""
    if value is None or isinstance(value, UnsetType) or not isinstance(moment, datetime):
        return None
    if isinstance(value, str):
        found = _CLOCK.search(value)
        if found is None:
            unit = timedelta(days=1)
        elif found[2] is None:
            unit = timedelta(hours=1) if found[1] is None else timedelta(minutes=1)
        else:
            unit = timedelta(microseconds=10 ** (6 - min(len(found[3] or ""), 6)))
    elif isinstance(value, float):
        unit = _MICROSECOND
    else:
        unit = timedelta(milliseconds=1 if value > LARGEST_SECONDS else 1000)
    try:
        return moment + unit - _MICROSECOND
    except OverflowError:
        return moment


def cents(value: Any, field: str) -> Given[int]:  # noqa: ANN401 - whatever was sent
    """Read a whole number of minor units.

    A text is digits only: "20.00" would be twenty of something, most likely not cents.
    """
    if type(value) is int and -MOST_CENTS <= value <= MOST_CENTS:
        return value
    if value is None or value is UNSET:
        return value
    if (isinstance(value, float) and value.is_integer()) or (
        isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value)
    ):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_CENTS:
        return value
    raise UndecodableError(field=field, problem="is not a whole number of cents")


def major_of_cents(value: Given[int]) -> Given[Decimal]:
    """Convert cents to major units: 2000 becomes 20.00. Every currency is assumed to have hundredths."""
    if value is None or isinstance(value, UnsetType):
        return value
    return CENT * value


def major(value: Given[Decimal], field: str) -> Given[Decimal]:
    """Write an amount in major units with two decimals: 20 and 20.0 become 20.00; finer fractions stay."""
    if value is None or isinstance(value, UnsetType):
        return value
    if value.same_quantum(CENT) and value.adjusted() < MOST_DIGITS:
        return value
    if not value.is_finite():
        raise UndecodableError(field=field, problem="is not an amount")
    magnitude = value.adjusted()
    if magnitude < MOST_DIGITS:
        rounded = value.quantize(CENT)
        if rounded == value:
            return rounded
        if magnitude > -MOST_DIGITS and len(value.as_tuple().digits) <= MOST_DIGITS:
            return value.normalize()
    raise UndecodableError(field=field, problem=f"has more than {MOST_DIGITS} digits")
