"""How many digits the minor unit of a currency has, as SQL: it is the providers who say."""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from eventstore.fold.projection import Money
from eventstore.query.row_json import Field

# The digits behind the point, by currency.
Digits: TypeAlias = Mapping[str, int]

# The name of the field that has the digits of a state's currency.
DIGITS = "minor_units"


class MinorUnits(msgspec.Struct, frozen=True, eq=False):
    """The digits of minor units at one provider: the `usual` ones, and by merchant `others` that take their place."""

    usual: Digits = {}
    others: Mapping[str, Digits] = {}


# In the order of the providers' names.
UnitsByProvider: TypeAlias = tuple[tuple[str, MinorUnits], ...]

NO_UNITS: UnitsByProvider = ()


def money_fields(money: Money, units: UnitsByProvider) -> list[Field]:
    """What a row says of an amount besides: the digits of its minor unit; if it is in these, what it is in major units.

    Both are null where the provider's minor unit of the currency is not known.
    """
    digits = _digits(money, units)
    fields = [Field(DIGITS, digits, "bigint", nullable=True)]
    if money.minor:
        major = f'round("{money.amount}" / power(10::numeric, {digits}), {digits})'
        fields.append(Field(major_name(money), major, "numeric", nullable=True))
    return fields


def major_name(money: Money) -> str:
    """The name of the field that has an amount of minor units in major ones."""
    return f"{money.amount}_major"


def _digits(money: Money, units: UnitsByProvider) -> str:
    """SQL for the digits of the minor unit of a state's currency."""
    of_providers = " ".join(
        f"WHEN {_literal(provider)} THEN {_of_provider(money, one)}"
        for provider, one in units
        if one.usual or one.others
    )
    return f"CASE provider {of_providers} END" if of_providers else "NULL::integer"


def _of_provider(money: Money, units: MinorUnits) -> str:
    codes: dict[int, list[str]] = {}
    for code, digits in sorted(units.usual.items()):
        codes.setdefault(digits, []).append(_literal(code))
    cases = [
        f'WHEN merchant_id = {_literal(merchant)} AND "{money.currency}" = {_literal(code)} THEN {digits:d}'
        for merchant, others in sorted(units.others.items())
        for code, digits in sorted(others.items())
    ]
    cases += [
        f'WHEN "{money.currency}" IN ({", ".join(listed)}) THEN {digits:d}'
        for digits, listed in codes.items()
    ]
    return f"CASE {' '.join(cases)} END"


def _literal(text: str) -> str:
    """A text as SQL has it, where standard_conforming_strings is on."""
    return "'" + text.replace("'", "''") + "'"
