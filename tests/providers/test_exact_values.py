"""Odd values are read exactly as they are written, or are for quarantine: never another instant, amount or id.

`readings.tsv` has what is read of each. A value stands in a body of its kind as it would come from a provider.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from eventstore.errors import LoopledgerError
from eventstore.fold.columns import check_storable
from providers.provider import Provider, Recognised
from tests.support import strict_reading
from tests.support.reading import PURCHASE, on_log

QUARANTINE = "quarantine"

CARD = Recognised("gift-card.updated", "m-1", "p-1", "loopz/m-1/gift-card/x")
PLACE = Recognised("location.updated", "m-1", "p-1", "loopz/m-1/location/x")
PAYMENT = Recognised(PURCHASE, "66", None, "fitbank/66/transaction/x")

# Where a value of each kind stands, and the field of the fact that it is read as. The second body of a kind is not as
# expected, since it has a lone surrogate in it, and so it is read by other means.
PLACES: Mapping[str, tuple[Recognised, bytes, str]] = {
    "time": (CARD, b'{"id":"x","code":"c","created_on":%b}', "created_at"),
    "cents": (CARD, b'{"id":"x","balance":%b}', "balance"),
    "amount": (
        PAYMENT,
        b'{"BusinessUnitId":66,"TransactionIdentifier":"x","TotalValue":%b}',
        "amount",
    ),
    "id": (CARD, b'{"id":%b,"code":"c"}', "id"),
    "text": (PLACE, b'{"id":"x","name":%b}', "name"),
}
ODD = b',"unread":"\\ud800"}'

LINES = Path(__file__).with_name("readings.tsv").read_text("utf-8").splitlines()[1:]
ROWS = [tuple(line.split("\t")) for line in LINES]


def found(providers: Mapping[str, Provider], kind: str, literal: str, *, odd: bool = False) -> Any:  # noqa: ANN401
    """What is read of a value, or QUARANTINE."""
    place, body, field = PLACES[kind]
    provider = providers[place.stream.partition("/")[0]]
    written = body % literal.encode()
    event = on_log(provider, place, written[:-1] + ODD if odd else written)
    try:
        fact = provider.decode(event)
        value = getattr(fact, field)
        check_storable(fact)
    except (LoopledgerError, msgspec.ValidationError, ValueError):
        return QUARANTINE
    return None if value is UNSET else value


def told(value: Any) -> str:  # noqa: ANN401
    """A reading as the table has it."""
    if value is None or value == QUARANTINE:
        return value or "none"
    if isinstance(value, str):
        return f"= {ascii(value)[1:-1]}"
    if isinstance(value, Decimal):
        return f"= {(value + 0).normalize():f}"
    return f"= {value.isoformat() if hasattr(value, 'isoformat') else value}"


def test_the_table_is_long_enough_to_be_worth_it() -> None:
    assert len(ROWS) >= 200
    assert len(set(ROWS)) == len(ROWS)
    assert {kind for kind, _, _ in ROWS} == set(PLACES) == set(strict_reading.READERS)


@pytest.mark.parametrize(("kind", "literal", "expected"), ROWS)
def test_an_odd_value_is_read_as_the_table_says(
    providers: dict[str, Provider], kind: str, literal: str, expected: str
) -> None:
    assert told(found(providers, kind, literal)) == expected
    assert told(found(providers, kind, literal, odd=True)) == expected
    if expected != QUARANTINE:
        assert told(strict_reading.READERS[kind](literal)) == expected


CHARACTERS = st.sampled_from('0123456789-+.,:TtZz eE_"\\u\u0663\uff11 \xa0\0')


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[str, str]:
    """A value of the table with up to three characters put in, taken out or exchanged."""
    kind, literal, _ = draw(st.sampled_from(ROWS))
    text = literal
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(CHARACTERS | st.just("")) + text[at + draw(st.integers(0, 1)) :]
    assume(strict_reading.is_json(text))
    return kind, json.dumps(json.loads(text)) if draw(st.booleans()) and '"' in text else text


@settings(max_examples=500)
@given(neighbours())
def test_a_neighbour_of_an_odd_value_is_never_read_as_another(
    providers: dict[str, Provider], neighbour: tuple[str, str]
) -> None:
    kind, literal = neighbour
    value = found(providers, kind, literal)
    assert found(providers, kind, literal, odd=True) == value
    if value != QUARANTINE:
        assert strict_reading.READERS[kind](literal.strip()) == value
