"""Reading the times that providers write: exactly the profiles that docs/providers.md names, and nothing else.

A time is never read as another instant. What is finer than a microsecond is cut off, which keeps the order of times;
what cannot be told for certain is an error.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from providers.facts import Given
from providers.parsing import Number, decimal_of
from providers.provider import UndecodableError

# How long after it was received a delivery's time may be, unless told otherwise: more than time zones make.
SECONDS_AHEAD = 86_400.0

SecondsAhead: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=3_000_000_000)]

MICROSECOND = timedelta(microseconds=1)
MILLISECOND = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Seconds since 1970 are read from 2000 up to 2100, and so are milliseconds: neither can be taken for the other.
FIRST_SECOND = 946_684_800
LAST_SECOND = 4_102_444_800

# .NET writes seven digits of a second, other platforms up to nine.
MOST_FRACTION_DIGITS = 9

# More digits than a number of seconds has with them, and fewer than decimal arithmetic rounds.
MOST_DIGITS = 25

# What platforms write where there is no time: .NET, SQL Server's `datetime` and its zero, Unix.
DEFAULT_TIMES = frozenset(
    {datetime(1, 1, 1), datetime(1753, 1, 1), datetime(1900, 1, 1), datetime(1970, 1, 1)}  # noqa: DTZ001 - wall clocks
)

# The same as numbers: 1970 and year 1, in seconds and in milliseconds.
DEFAULT_NUMBERS = frozenset({0, -62_135_596_800, -62_135_596_800_000})

# The end of .NET's and SQL's calendars, which stands for "never".
NEVER = datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001 - a wall clock

# Only a time up to the first of these years, or from the last on, may be a default.
FIRST_YEAR = 1970
LAST_YEAR = 9999

_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def _profiles() -> dict[bytes, timedelta]:
    """The unit that each profile tells the time to; a profile is a text with zeros for its digits."""
    found = {b"0000-00-00": DAY}
    for digits in range(MOST_FRACTION_DIGITS + 1):
        fraction = b"." + b"0" * digits if digits else b""
        unit = timedelta(microseconds=10 ** max(0, 6 - digits))
        for separator in (b"T", b"t", b" "):
            for offset in (b"", b"Z", b"z", b"+00:00", b"-00:00", b"+0000", b"-0000"):
                found[b"0000-00-00" + separator + b"00:00:00" + fraction + offset] = unit
    return found


PROFILES = _profiles()

# Those with an offset that Python reads as they are.
_USUAL_PROFILES = frozenset(
    profile
    for profile in PROFILES
    if profile.endswith((b"Z", b"+00:00", b"-00:00")) and b"T" in profile
)

# What is to be taken from a wall clock to get UTC: in half the time of `astimezone`.
_OFFSETS = {
    f"{sign}{hours:02}:{minutes:02}": timedelta(
        hours=int(f"{sign}{hours}"), minutes=int(f"{sign}{minutes}")
    )
    for sign in "+-"
    for hours in range(24)
    for minutes in range(60)
}

# Looking it up takes half as long as what it does.
_of_iso_format = datetime.fromisoformat


def time(  # noqa: C901 - straight lines
    value: Any,  # noqa: ANN401 - whatever was sent
    field: str,
    zone: tzinfo = UTC,
) -> Given[datetime]:
    """Read a time, in UTC: RFC 3339, ISO 8601 without an offset (it is in `zone`), or a number since 1970.

    None for null; UNSET, as though it were not there, for a default that stands for no time. Raises UndecodableError
    for anything else, and for a local time that comes twice or never, as clocks change.
    """
    try:
        if type(value) is str:
            profile = value.encode().translate(_ZEROS)
            # Before and after are the defaults.
            if profile in _USUAL_PROFILES and "1971" <= value < "9999":
                if value[-1] == "Z":
                    moment = _of_iso_format(value)
                    if moment.hour or value[12] == "0":
                        return moment
                elif (offset := _OFFSETS.get(value[-6:])) is not None:
                    wall = _of_iso_format(value[:-6] + "Z")
                    if wall.hour or value[12] == "0":
                        return wall - offset
            return _of_text(value, field, zone)
        if value is None or value is UNSET:
            return value
        if type(value) is int:
            return _of_number(Decimal(value))
        if type(value) is Number:
            return _of_number(decimal_of(value))
    except (ValueError, OverflowError):
        pass
    raise UndecodableError(field=field, problem="is not a time")


def known_time(value: Any, field: str, zone: tzinfo = UTC) -> datetime | None:  # noqa: ANN401 - as above
    """As `time`, for a field that is absent or null where the provider does not say."""
    moment = time(value, field, zone)
    return None if isinstance(moment, UnsetType) else moment


def check_not_ahead(
    moment: datetime | None, received_at: datetime, most: timedelta, field: str
) -> None:
    """Raise UndecodableError for a time so far after its delivery that it would be newer than all to come."""
    if moment is not None and moment - received_at > most:
        raise UndecodableError(
            field=field,
            problem="is further ahead of when it was received than `seconds_ahead` allows",
        )


def last_instant(value: Any, moment: datetime | None) -> datetime | None:  # noqa: ANN401 - as above
    """The end of the unit to which `value` tells the time that was read as `moment`.

    A whole second ends with its last microsecond, a day with that of the day.
    """
    if moment is None:
        return None
    if type(value) is str:
        unit = PROFILES[value.encode().translate(_ZEROS)]
    else:
        _, unit = _seconds_and_unit(Decimal(value) if type(value) is int else decimal_of(value))
    return moment + (unit - MICROSECOND)


def _of_text(value: str, field: str, zone: tzinfo) -> datetime | UnsetType:
    shape = value.encode().translate(_ZEROS)
    if shape not in PROFILES:
        raise ValueError
    if shape == value.encode():
        # MySQL's zero date.
        return UNSET
    moment = datetime.fromisoformat(value if value.isupper() else value.upper())
    if not FIRST_YEAR < moment.year < LAST_YEAR:
        wall = moment.replace(tzinfo=None)
        if wall in DEFAULT_TIMES or wall >= NEVER or (moment.tzinfo and moment == EPOCH):
            return UNSET
    if value[11:13] == "24":
        # 24:00 is in no profile, though later Pythons read it.
        raise ValueError
    if moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        return _of_local(moment, field, zone)
    if value[-2:] > "59":
        # Python takes +01:60 for +02:00.
        raise ValueError
    return moment.astimezone(UTC)


def _of_local(moment: datetime, field: str, zone: tzinfo) -> datetime:
    local = moment.replace(tzinfo=zone)
    if zone is not UTC and local.utcoffset() != local.replace(fold=1).utcoffset():
        problem = "is a local time that comes twice or never, as the clocks change"
        raise UndecodableError(field=field, problem=problem)
    return local.astimezone(UTC)


def _of_number(number: Decimal) -> datetime | UnsetType:
    if number in DEFAULT_NUMBERS:
        return UNSET
    seconds, _ = _seconds_and_unit(number)
    _, digits, exponent = seconds.as_tuple()
    if (
        not isinstance(exponent, int)
        or -exponent > MOST_FRACTION_DIGITS
        or len(digits) > MOST_DIGITS
    ):
        raise ValueError
    return EPOCH + timedelta(microseconds=int(seconds.scaleb(6)))


def _seconds_and_unit(number: Decimal) -> tuple[Decimal, timedelta]:
    """Seconds or milliseconds, by how large it is; a fraction of either is taken for microseconds."""
    if FIRST_SECOND <= number < LAST_SECOND:
        seconds, unit = number, SECOND
    elif FIRST_SECOND * 1000 <= number < LAST_SECOND * 1000:
        seconds, unit = number.scaleb(-3), MILLISECOND
    else:
        raise ValueError
    return seconds, unit if number == number.to_integral_value() else MICROSECOND
