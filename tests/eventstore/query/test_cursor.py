"""Cursors and pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import CursorError
from eventstore.query.cursor import Page, decode_cursor, encode_cursor, page_of


@given(st.text())
def test_a_cursor_gives_its_key_back_and_fits_into_a_url(key: str) -> None:
    cursor = encode_cursor(key)
    assert decode_cursor(cursor) == key
    assert cursor.replace("-", "").replace("_", "").isalnum() or not cursor


def test_without_a_cursor_a_list_begins_at_its_beginning() -> None:
    assert decode_cursor(None) == ""


@pytest.mark.parametrize("cursor", ["!", "YQ=a", "_w", "Y"])
def test_what_no_list_gave_out_is_no_cursor(cursor: str) -> None:
    with pytest.raises(CursorError, match="The parameter cursor is not a cursor"):
        decode_cursor(cursor)


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
