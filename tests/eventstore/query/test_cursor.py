"""Cursors and pages."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import CursorError
from eventstore.log.streams import stream_name
from eventstore.query.cursor import Page, decode_cursor, encode_cursor, page_of

QUESTION = ["gift_cards", "balance", {"status": "ACTIVE"}]
KEY = ("2500", "-17", "loopz/m-1/gift-card/g%20~1")
TYPES = ("bigint", "bigint", "text")
CURSOR = encode_cursor(QUESTION, KEY)

BIGINTS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.datetimes(min_value=datetime(1000, 1, 1)).map(lambda time: f"{time}+00")  # noqa: DTZ001
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda d: f"{d:f}")


@given(BIGINTS, TIMES | st.just("-infinity"), NUMBERS | st.just("-Infinity"), st.text(min_size=1))
def test_a_cursor_gives_its_key_back_and_fits_into_a_url(
    number: int, time: str, decimal: str, id_: str
) -> None:
    key = [str(number), time, decimal, stream_name("loopz", "m-1", "gift-card", id_)]
    types = ["bigint", "timestamp with time zone", "numeric", "text"]
    cursor = encode_cursor(QUESTION, key)
    assert decode_cursor(QUESTION, cursor, types) == key
    assert cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "question",
    [
        ["locations", "balance", {"status": "ACTIVE"}],
        ["gift_cards", "-balance", {"status": "ACTIVE"}],
        ["gift_cards", "balance", {"status": "INACTIVE"}],
        ["gift_cards", "balance", {}],
    ],
)
def test_a_cursor_is_bound_to_its_list_its_sort_and_its_filters(question: object) -> None:
    with pytest.raises(CursorError, match="The parameter cursor is not a cursor"):
        decode_cursor(question, CURSOR, TYPES)


def with_key(*key: str) -> str:
    return encode_cursor(QUESTION, key)


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "!", "YQ=a", "_w", "Y", "AAAA", "AAA", "\ud800", "\0", "é" * 4, "1", "-1", "9" * 30),
        *(with_key(), with_key("1", "2"), with_key("1", "2", "s", "t"), with_key("1", "2", "s\0")),
        *(with_key("x", "2", "s"), with_key("1_0", "2", "s"), with_key("٣", "2", "s")),
        *(with_key(str(2**63), "2", "s"), with_key("1", "2\n", "s"), with_key("", "2", "s")),
        *(f"{CURSOR}=", CURSOR[:-1], f"{CURSOR[:-1]}B", f"{CURSOR}\n", f" {CURSOR}"),
    ],
)
def test_what_this_list_did_not_give_out_is_no_cursor(cursor: str) -> None:
    with pytest.raises(CursorError):
        decode_cursor(QUESTION, cursor, TYPES)


@pytest.mark.parametrize("text", ["2026-02-30 00:00:00+00", "2026-W01-1", "now", "2026-01-01"])
def test_a_cursor_of_times_holds_nothing_but_times(text: str) -> None:
    with pytest.raises(CursorError):
        decode_cursor([], encode_cursor([], [text]), ["timestamp with time zone"])


@given(st.text() | st.text("ABCDEFabcdef0189-_=", max_size=60) | st.binary().map(str))
def test_no_chance_text_is_a_cursor(cursor: str) -> None:
    with pytest.raises(CursorError):
        decode_cursor(QUESTION, cursor, TYPES)


@pytest.mark.parametrize(
    ("found", "page"),
    [
        ([], Page([], None)),
        ([1, 2], Page([1, 2], None)),
        ([1, 2, 3], Page([1, 2], 2)),
    ],
)
def test_a_page_has_a_next_one_only_if_more_was_found(
    found: list[int], page: Page[int, int]
) -> None:
    assert page_of(found, 2, lambda item: item) == page
