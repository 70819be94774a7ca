"""Reading amounts of money, exactly, and the minor units of currencies."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

from iso4217 import Currency
from msgspec import UNSET, Meta, UnsetType

from providers.facts import Given
from providers.parsing import Number, decimal_of, whole_of
from providers.provider import UndecodableError

# A currency as ISO 4217 writes it, and the digits that its minor unit has behind the point.
CurrencyCode: TypeAlias = Annotated[str, Meta(pattern="^[A-Z]{3}$")]
MinorDigits: TypeAlias = Annotated[int, Meta(ge=0, le=8)]

# Far beyond any amount, and within what decimal arithmetic keeps exactly.
MOST_DIGITS = 24

# Amounts of minor units are int64.
MOST_CENTS = 2**63 - 1

CENT = Decimal("0.01")
NOTHING = Decimal("0.00")

# Withdrawn since 2010, and so no longer in the list: a log outlives currencies.
WITHDRAWN: Mapping[str, int] = {
    **dict.fromkeys(("ANG", "BGN", "CUC", "EEK", "HRK", "LTL", "LVL", "MRO"), 2),
    **dict.fromkeys(("SLL", "STD", "VEF", "ZMK", "ZWL"), 2),
    "BYR": 0,
}

# ISO 4217 has no minor unit for some: gold, or what is only for tests.
MINOR_DIGITS: Mapping[str, int] = {
    **WITHDRAWN,
    **{currency.code: currency.exponent for currency in Currency if currency.exponent is not None},
}

_CURRENCY = re.compile(r"[A-Z]{3}")
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def units_of(digits: Mapping[str, int]) -> dict[str, Decimal]:
    """The minor unit of each currency, in major units, by the digits behind the point."""
    return {code: Decimal(1).scaleb(-places) for code, places in digits.items()}


def currency_code(value: Any, field: str) -> Given[str]:  # noqa: ANN401 - whatever was sent
    """Read a currency: three capital letters, whether or not ISO 4217 has it. Raises UndecodableError."""
    if value is None or value is UNSET:
        return value
    if type(value) is str and _CURRENCY.fullmatch(value):
        return value
    raise UndecodableError(field=field, problem="is not a currency of three capital letters")


def cents(value: Any, field: str) -> Given[int]:  # noqa: ANN401 - whatever was sent
    """Read a whole number of minor units. Raises UndecodableError.

    A text is digits only: "20.00" would be twenty of something, most likely not cents.
    """
    if type(value) is int and -MOST_CENTS <= value <= MOST_CENTS:
        return value
    if value is None or value is UNSET:
        return value
    whole = None
    if type(value) is str and _WHOLE_NUMBER.fullmatch(value):
        whole = int(value)
    elif type(value) is Number:
        whole = whole_of(value)
    if whole is not None and abs(whole) <= MOST_CENTS:
        return whole
    raise UndecodableError(field=field, problem="is not a whole number of cents")


def major_of_minor(
    value: Given[int], currency: Given[str], units: Mapping[str, Decimal], field: str
) -> Given[Decimal]:
    """Convert minor units to major ones: 2000 are 20.00 USD, and 2000 JPY. Raises UndecodableError.

    Without a currency they are hundredths, as they are documented to be "cents".
    """
    if value is None or isinstance(value, UnsetType):
        return value
    if not isinstance(currency, str):
        return CENT * value
    unit = units.get(currency)
    if unit is None:
        problem = "is in a currency whose minor unit is not known"
        raise UndecodableError(field=field, problem=problem)
    return unit * value


def major(value: Any, field: str) -> Given[Decimal]:  # noqa: ANN401 - whatever was sent
    """Read an amount in major units, with two decimals: 20 and 20.0 become 20.00; finer fractions stay.

    Raises UndecodableError.
    """
    amount = None
    if (type(value) is str and _DECIMAL.fullmatch(value)) or type(value) is int:
        amount = Decimal(value)
    elif value is None or value is UNSET:
        return value
    elif type(value) is Number:
        amount = _decimal_or_none(value)
    if amount is None:
        raise UndecodableError(field=field, problem="is not an amount")
    if not amount:
        # Also -0 and 0E+5.
        return NOTHING
    magnitude = amount.adjusted()
    if magnitude < MOST_DIGITS:
        if amount.same_quantum(CENT):
            return amount
        rounded = amount.quantize(CENT)
        if rounded == amount:
            return rounded
        if magnitude > -MOST_DIGITS and len(amount.as_tuple().digits) <= MOST_DIGITS:
            return amount.normalize()
    raise UndecodableError(field=field, problem=f"has more than {MOST_DIGITS} digits")


def _decimal_or_none(number: Number) -> Decimal | None:
    try:
        return decimal_of(number)
    except ValueError:
        return None
