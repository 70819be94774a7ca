"""Headers on record: few bytes, the very lines that were kept, and the same bytes for ever."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.header_block import NAMES, VALUES, decode_headers, encode_headers

DIGEST = bytes(range(32)).hex().encode()

PAIRS = (
    (b"Content-Type", b"application/json"),
    (b"X-LOOPZ-WEBHOOK-TOPIC", b"gift-card.updated"),
    (b"X-LOOPZ-MERCHANT-ID", b"m-1"),
    (b"x-loopz-program-id", b"p-1"),
    (b"X-Signature-256", b"sha256=" + DIGEST),
    (b"X-Of-Their-Own", b"long" * 100),
    (b"webhook-id", b"38142f22-37b7-473a-a06c-aba25266ac89"),
    (b"X-Signature", DIGEST),
    (b"User-Agent", b""),
)
COLUMNS = ("gift-card.updated", "m-1", "p-1")

# On record for ever: a change of these bytes is a change of what old events say.
BLOCK = (
    b"\x01\x01\xf8\x18\xf0\x19\xf1\x9a\xf2"
    b"\x12\xe1" + bytes(range(32)) + b"\x00\x0eX-Of-Their-Own\xc1\x90" + b"long" * 100 + b"\x8e\xe2"
    b"\x38\x14\x2f\x22\x37\xb7\x47\x3a\xa0\x6c\xab\xa2\x52\x66\xac\x89\x11\xe0\x20"
    + bytes(range(32))
    + b"\x02\x00"
)


def lines(pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in pairs)


def test_a_block_is_written_and_read_in_the_form_that_is_on_record() -> None:
    assert encode_headers(PAIRS, *COLUMNS) == BLOCK
    assert decode_headers(BLOCK, *COLUMNS) == lines(PAIRS)


def test_no_number_has_changed_its_meaning() -> None:
    assert NAMES[:3] == (b"Content-Type", b"User-Agent", b"Date")
    assert NAMES[22:27] == (
        b"Loopledger-Rejection",
        b"X-LOOPZ-WEBHOOK-TOPIC",
        b"X-LOOPZ-MERCHANT-ID",
        b"X-LOOPZ-PROGRAM-ID",
        b"X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID",
    )
    assert VALUES[0] == b"application/json"


def test_plain_lines_of_older_events_are_read_as_they_are() -> None:
    assert decode_headers(b"Host: a\r\nX: y\r\n", *COLUMNS) == b"Host: a\r\nX: y\r\n"
    assert decode_headers(b"", *COLUMNS) == b""


TEXT = st.one_of(
    st.sampled_from([*NAMES, *VALUES, b"m-1", DIGEST, DIGEST.upper(), b"sha256=" + DIGEST]),
    st.binary(max_size=300),
)


@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(NAMES), st.binary(min_size=1, max_size=255)), TEXT)
    ),
    st.one_of(st.none(), st.text(max_size=5)),
)
def test_what_was_kept_comes_back_byte_for_byte(
    pairs: list[tuple[bytes, bytes]], program_id: str | None
) -> None:
    block = encode_headers(pairs, "a topic", "m-1", program_id)
    assert decode_headers(block, "a topic", "m-1", program_id) == lines(tuple(pairs))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_block_are_refused_and_never_misread_beyond_their_end(raw: bytes) -> None:
    with suppress(ValueError):
        assert decode_headers(b"\x01" + raw, *COLUMNS) or not raw


@pytest.mark.parametrize("pair", [(b"n" * 256, b""), (b"n", b"v" * 8192)])
def test_what_is_too_long_for_a_block_is_refused(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="too long"):
        encode_headers([pair], *COLUMNS)
