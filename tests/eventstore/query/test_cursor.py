"""Cursors and pages."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import CursorError
from eventstore.log.streams import stream_name
from eventstore.query.cursor import Page, decode_cursor, encode_cursor, page_of

STREAM = "loopz/m-1/gift-card/g%20~1"

PART = st.text(min_size=1)


@given(PART, PART, st.none() | PART)
def test_a_cursor_gives_its_stream_back_and_fits_into_a_url(
    tenant: str, kind: str, id_: str | None
) -> None:
    stream = stream_name("loopz", tenant, kind, id_)
    cursor = encode_cursor("gift_cards", stream)
    assert decode_cursor("gift_cards", cursor) == stream
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_without_a_cursor_a_list_begins_at_its_beginning() -> None:
    assert decode_cursor("gift_cards", None) == ""


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "!", "YQ=a", "_w", "Y", "AAAA", "AAA", "\ud800", "\0", "é" * 4, "1", "-1", "9" * 30),
        *(encoded(STREAM), encoded(f"locations {STREAM}"), encoded(f"gift_cards  {STREAM}")),
        *(encoded("gift_cards "), encoded("gift_cards loopz/m-1/gift-card/")),
        *(encoded(f"gift_cards {STREAM}/x"), encoded(f"gift_cards {STREAM}\0")),
        *(encoded(f"gift_cards {STREAM}é"), encoded(f"gift_cards {STREAM}" + "x" * 1000)),
        encode_cursor("gift_cards", STREAM) + "=",
        encode_cursor("gift_cards", STREAM)[:-1],
        encode_cursor("gift_cards", STREAM)[:-1] + "B",
        encode_cursor("gift_cards", STREAM) + "\n",
        " " + encode_cursor("gift_cards", STREAM),
    ],
)
def test_what_this_list_did_not_give_out_is_no_cursor(cursor: str) -> None:
    with pytest.raises(CursorError, match="The parameter cursor is not a cursor"):
        decode_cursor("gift_cards", cursor)


@given(st.text() | st.text("ABCDEFabcdef0189-_=", max_size=60) | st.binary().map(str))
def test_no_chance_text_is_a_cursor(cursor: str) -> None:
    with pytest.raises(CursorError):
        decode_cursor("gift_cards", cursor)


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
