"""What an error of the driver means, and how it is told."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

import asyncpg
import msgspec
import pytest

from eventstore.errors import UnstorableError
from eventstore.postgres.database import Database
from eventstore.postgres.failures import describe, is_outage, is_refused_value, is_transient

# Each error: whether it is an outage, one that ends by itself, or a value refused.
MEANINGS: list[tuple[Exception, tuple[bool, bool, bool]]] = [
    (ConnectionRefusedError(), (True, True, False)),
    (TimeoutError(), (True, True, False)),
    (asyncpg.InterfaceError("connection is closed"), (True, True, False)),
    (asyncpg.UnsupportedServerFeatureError("LISTEN"), (False, False, False)),
    (asyncpg.InternalClientError("unknown protocol state"), (True, True, False)),
    (asyncpg.AdminShutdownError("terminating"), (True, True, False)),
    (asyncpg.DeadlockDetectedError("deadlock"), (True, True, False)),
    (asyncpg.DiskFullError("no space left on device"), (True, False, False)),
    (asyncpg.QueryCanceledError("statement timeout"), (True, False, False)),
    (asyncpg.DataError("invalid input"), (False, False, True)),
    (asyncpg.NotNullViolationError("null value"), (False, False, True)),
    (OverflowError(), (False, False, True)),
    (asyncpg.UniqueViolationError("duplicate key"), (False, False, False)),
    (asyncpg.UndefinedTableError("no such table"), (False, False, False)),
    (ZeroDivisionError(), (False, False, False)),
]


@pytest.mark.parametrize(
    ("error", "meaning"), MEANINGS, ids=[type(error).__name__ for error, _ in MEANINGS]
)
def test_an_error_means_an_outage_or_a_refused_value_or_neither(
    error: Exception, meaning: tuple[bool, bool, bool]
) -> None:
    assert (is_outage(error), is_transient(error), is_refused_value(error)) == meaning


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        ("SELECT $1::int", ()),
        ("SELECT 1", (1,)),
        ("SELECT $1::int", (1, 2)),
        ("SELECT $1::int", [0] * 40_000),
    ],
)
async def test_wrong_arguments_of_a_statement_are_no_outage(
    database: Database, statement: str, arguments: Sequence[int]
) -> None:
    with pytest.raises(asyncpg.InterfaceError) as raised:
        await database.fetch(statement, *arguments)
    assert not is_outage(raised.value)
    assert not is_transient(raised.value)


async def test_a_connection_that_is_closed_is_an_outage(database: Database) -> None:
    connection = await database.connect()
    connection.terminate()
    with pytest.raises(asyncpg.InterfaceError) as raised:
        await connection.fetch("SELECT 1")
    assert is_outage(raised.value)


class Card(msgspec.Struct):
    """What a body may be."""

    balance: bool | int | float | str | dict[str, str] | None = None
    total: Decimal = Decimal(0)
    at: datetime | None = None
    word: Literal["a", "b"] = "a"
    inner: "Card | None" = None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            b'{"balance": []}',
            "balance must be true or false, a whole number, a number, a string, an object or null, not an array.",
        ),
        (b'{"total": null}', "total must be a decimal number, not null."),
        (b'{"total": "4111-1111"}', "total is not a decimal number."),
        (b'{"inner": {"at": 3.5}}', "inner.at must be a time or null, not a number."),
        (b'{"word": "a secret"}', "word is none of the values that it may have."),
        (b"[]", "the value must be an object, not an array."),
    ],
)
def test_a_value_that_does_not_fit_is_told_in_words_of_json(body: bytes, text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=Card)
    assert describe(caught.value) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            UnstorableError(field="status", problem="is too long"),
            "status is too long.",
        ),
        (asyncpg.DiskFullError("no\nspace"), "DiskFullError: no message (53100)"),
        (ValueError("a card number"), "ValueError"),
    ],
    ids=["our own", "of Postgres", "of others, whose message may quote a value"],
)
def test_an_error_is_described_in_a_line_without_values(error: Exception, text: str) -> None:
    assert describe(error) == text
