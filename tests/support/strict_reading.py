"""What docs/providers.md says of values, read by other means than the product: by characters and fractions.

Each reader takes a value as JSON writes it, and gives what it means. ValueError: it is for quarantine.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)

TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))?)?",
    re.ASCII,
)

# Microseconds from the year 1 to 1970, to 2000 and to 2100, by the calendar.
MICROSECONDS = 10**6
OF_2000 = 946_684_800
OF_2100 = 4_102_444_800
OF_YEAR_1 = -62_135_596_800

DEFAULT_DAYS = {"0000-00-00", "0001-01-01", "1753-01-01", "1900-01-01", "1970-01-01"}


def text_of(literal: str) -> str | None:
    """The text, if it is one."""
    value = json.loads(literal) if literal.startswith('"') else None
    return value if isinstance(value, str) else None


def fraction(literal: str) -> Fraction:
    """The exact value of a number. ValueError if it is none, or beyond all use."""
    found = NUMBER.fullmatch(literal)
    if found is None:
        raise ValueError(literal)
    sign, whole, after, exponent = found.groups()
    power = int(exponent or 0)
    if abs(power) > 5_000 or len(literal) > 4_300:
        raise ValueError(literal)
    digits = int(whole + (after or ""))
    value = Fraction(digits) * Fraction(10) ** (power - len(after or ""))
    return -value if sign else value


def time(literal: str) -> datetime | None:
    """An instant, or none."""
    if literal == "null":
        return None
    written = text_of(literal)
    return _instant_of_number(literal) if written is None else _instant_of_text(written)


def _instant_of_number(literal: str) -> datetime | None:
    value = fraction(literal)
    if value in {0, OF_YEAR_1, OF_YEAR_1 * 1000}:
        return None
    if OF_2000 * 1000 <= value < OF_2100 * 1000:
        value /= 1000
    if not OF_2000 <= value < OF_2100 or (value * 10**9).denominator != 1:
        raise ValueError(literal)
    return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=int((value - OF_2000) * MICROSECONDS)
    )


def _instant_of_text(written: str) -> datetime | None:
    found = TIME.fullmatch(written)
    if found is None:
        raise ValueError(written)
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    midnight = (hour, minute, second, int(found[7] or 0)) == (0, 0, 0, 0)
    if midnight and written[:10] in DEFAULT_DAYS and _plain_zeros(written):
        return None
    if written.startswith("9999-12-31") and (hour, minute, second) == (23, 59, 59):
        return None
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = DAYS[month - 1] + (month == 2 and leap) if 1 <= month <= 12 else 0
    if not (year and 1 <= day <= days and hour < 24 and minute < 60 and second < 60):
        raise ValueError(written)
    offset = 0
    if found[8]:
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            raise ValueError(written)
        offset = (hours * 60 + minutes) * (-1 if found[8] == "-" else 1)
    # What is finer than a microsecond is cut off.
    micro = int((found[7] or "").ljust(6, "0")[:6])
    wall = datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)
    try:
        instant = wall - timedelta(minutes=offset)
    except OverflowError:
        raise ValueError(written) from None
    return None if found[8] and instant == datetime(1970, 1, 1, tzinfo=UTC) else instant


def _plain_zeros(written: str) -> bool:
    """MySQL's zero date has only zeros; the others may have any offset that there is."""
    if not written.startswith("0000"):
        return not re.search(
            r"[+-](2[4-9]|[3-9][0-9]):?[0-9]{2}$|[+-][0-9]{2}:?[6-9][0-9]$", written[10:]
        )
    return not re.search("[1-9]", written)


def cents(literal: str) -> int | None:
    """A whole number of minor units that fits into 64 bits."""
    if literal == "null":
        return None
    written = text_of(literal)
    if written is not None and not re.fullmatch("-?(0|[1-9][0-9]*)", written, re.ASCII):
        raise ValueError(literal)
    value = fraction(literal if written is None else written)
    if value.denominator != 1 or abs(value) >= 2**63:
        raise ValueError(literal)
    return int(value)


def amount(literal: str) -> Decimal | None:
    """An amount in major units, of at most 24 digits before the point."""
    if literal == "null":
        return None
    written = text_of(literal)
    if written is not None and not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", written, re.ASCII):
        raise ValueError(literal)
    digits = literal if written is None else written
    if abs(fraction(digits)) >= 10**24:
        raise ValueError(literal)
    return Decimal(digits)


def identity(literal: str) -> str:
    """An id: text that is not empty, or a whole number."""
    if (written := text_of(literal)) is not None:
        if not written:
            raise ValueError(literal)
        return storable(written)
    value = fraction(literal)
    if value.denominator != 1 or (not literal.lstrip("-").isdigit() and abs(value) >= 10**39):
        raise ValueError(literal)
    return str(int(value))


def text(literal: str) -> str | None:
    """A text, or a number or a boolean as it is written."""
    if literal == "null":
        return None
    if (written := text_of(literal)) is not None:
        return storable(written)
    if literal not in {"true", "false"} and not NUMBER.fullmatch(literal):
        raise ValueError(literal)
    return literal


def storable(written: str) -> str:
    """A text that Postgres can hold."""
    if any(each == "\0" or "\ud800" <= each <= "\udfff" for each in written):
        raise ValueError(written)
    return written


READERS: Mapping[str, Callable[[str], Any]] = {
    "time": time,
    "cents": cents,
    "amount": amount,
    "id": identity,
    "text": text,
}


def is_json(literal: str) -> bool:
    """Whether it is one value, as RFC 8259 has it."""
    try:
        json.loads(literal, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
