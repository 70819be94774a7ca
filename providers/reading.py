"""Reading what a provider wrote: JSON as lenient as RFC 8259 allows, then times, texts and amounts."""

import json
from datetime import UTC, datetime, tzinfo
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

# A number of seconds since 1970 beyond this would be a year past 5000: it is milliseconds.
LARGEST_SECONDS = 100_000_000_000


def parse_object(body: bytes, decoder: msgspec.json.Decoder[T], type_: type[T]) -> T:
    """Decode a JSON object. Raises UnparsableError with the byte offset of what is wrong.

    msgspec is quick but refuses some valid JSON (lone surrogate escapes, numbers beyond a double); what it refuses
    is judged again by the standard library.
    """
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = _parse_slowly(body)
    if not isinstance(value, dict):
        raise UnparsableError(problem=f"it is {_json_kind(value)}", offset=_first_byte(body))
    return msgspec.convert(value, type_)


def _parse_slowly(body: bytes) -> object:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnparsableError(problem="not valid UTF-8", offset=error.start) from None
    if not text.strip(" \t\r\n"):
        raise UnparsableError(problem="it is empty", offset=len(body))
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        problem = error.msg[:1].lower() + error.msg[1:]
        offset = len(text[: error.pos].encode())
        raise UnparsableError(problem=problem, offset=offset) from None
    except RecursionError:
        raise UnparsableError(problem="nested too deeply", offset=_first_byte(body)) from None
    except ValueError as error:
        # NaN and Infinity, or an integer of more digits than Python reads.
        raise UnparsableError(problem=str(error).split(";")[0], offset=_first_byte(body)) from None


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _first_byte(body: bytes) -> int:
    return len(body) - len(body.lstrip(b" \t\r\n"))


def _json_kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", str: "a string", list: "an array"}
    return kinds.get(type(value), "a number")


def identity(value: object) -> str | None:
    """Read an id: text, or a whole number; anything else is none."""
    if isinstance(value, str):
        return value or None
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
    """Read a text; a number or a boolean is taken as it is written in JSON."""
    if value is None or value is UNSET or isinstance(value, str):
        return value
    return json.dumps(value)


def time(value: Scalar, field: str, zone: tzinfo = UTC) -> Given[datetime]:
    """Read a time: ISO 8601 (without an offset it is in `zone`) or seconds or milliseconds since 1970."""
    if value is None or value is UNSET:
        return value
    try:
        if isinstance(value, str):
            moment = _iso_time(value.strip())
            return moment if moment.tzinfo else moment.replace(tzinfo=zone)
        if not isinstance(value, bool):
            return datetime.fromtimestamp(value / (1000 if value > LARGEST_SECONDS else 1), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise UndecodableError(field=field, problem="is not a time")


def _iso_time(value: str) -> datetime:
    try:
        return msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        return datetime.fromisoformat(value)


def known_time(value: Scalar, field: str, zone: tzinfo = UTC) -> datetime | None:
    """As `time`, for a field of which absent and null mean the same: the provider does not say."""
    moment = time(value, field, zone)
    return None if moment is UNSET else moment


def cents(value: Any, field: str) -> Given[int]:  # noqa: ANN401 - whatever was sent
    """Read a whole number of minor units."""
    if value is None or value is UNSET:
        return value
    if isinstance(value, str | float):
        try:
            value = Decimal(str(value))
            value = int(value) if value == value.to_integral_value() else value
        except (ArithmeticError, ValueError):
            value = None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UndecodableError(field=field, problem="is not a whole number of cents")


def major(value: Given[Decimal], field: str) -> Given[Decimal]:
    """Write an amount of major units with its cents: 20 and 20.0 are 20.00; finer fractions stay."""
    if value is None or value is UNSET:
        return value
    if not value.is_finite():
        raise UndecodableError(field=field, problem="is not an amount")
    if len(value.as_tuple().digits) > MOST_DIGITS or abs(value.adjusted()) > MOST_DIGITS:
        raise UndecodableError(field=field, problem=f"has more than {MOST_DIGITS} digits")
    plain = value.normalize()
    return plain.quantize(CENT) if plain == plain.quantize(CENT) else plain
