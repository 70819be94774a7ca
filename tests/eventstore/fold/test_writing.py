"""COPY: what is put into a table is what comes out of it, whatever the text."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.fold.writing import copy_rows

if TYPE_CHECKING:
    from asyncpg import Connection, Record

COLUMNS = {
    "n": "bigint NOT NULL",
    "said": "text",
    "known": "boolean",
    "amount": "numeric",
    "moment": "timestamptz",
}

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)

ROWS = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.none() | TEXTS,
        st.none() | st.booleans(),
        st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=2),
        st.none() | st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - Hypothesis wants it so
    ),
    max_size=5,
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


@pytest.fixture
def table(runner: asyncio.Runner, dsn: str) -> "Iterator[Connection[Record]]":
    """A connection with an empty table of its own."""
    connection = runner.run(asyncpg.connect(dsn))
    columns = ", ".join(f"{name} {type_}" for name, type_ in COLUMNS.items())
    runner.run(connection.execute(f"CREATE TEMPORARY TABLE copied ({columns})"))
    yield connection
    runner.run(connection.close())


def row(said: str) -> tuple[int, str, bool, Decimal, datetime]:
    return (1, said, True, Decimal("0.50"), datetime(2026, 1, 2, tzinfo=UTC))


@given(rows=ROWS)
@example(rows=[row("\\."), row("]\n["), row("null"), row(""), row(",\"'"), row("\\N"), row("\\n")])
@example(rows=[row("a\r\nb\tc\x01\x1f\x7f\x85\u2028"), row('\\"'), row("\n\\.\n")])
@example(rows=[row("many")] * 1_234)
def test_rows_come_back_as_they_were_given(
    runner: asyncio.Runner,
    table: "Connection[Record]",
    rows: list[tuple[int, str | None, bool | None, Decimal | None, datetime | None]],
) -> None:
    async def there_and_back() -> list[tuple[object, ...]]:
        await table.execute("TRUNCATE copied")
        await copy_rows(table, None, "copied", list(COLUMNS), iter(rows))
        return [tuple(one) for one in await table.fetch("SELECT * FROM copied")]

    assert runner.run(there_and_back()) == rows
