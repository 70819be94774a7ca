"""The headers of an event as they are on record: a few bytes that decode to the very lines that were kept.

A block is plain "Name: value" lines, each ended by CR LF, as those of older events and of rejections; or it begins with
the byte 1, and then each header is a name and a value:

| name | meaning |
| --- | --- |
| 1 to 127 | the one of this number in `NAMES` |
| 128 + that | the same in lower case |
| 0, length, bytes | any other |

| value | meaning |
| --- | --- |
| 0 to 191, bytes | so many bytes |
| 192 + high, low, bytes | high * 256 + low bytes, 8,191 at most |
| 224, length, bytes | these bytes as hexadecimal digits in lower case |
| 225, 32 bytes | the same after "sha256=" |
| 226, 16 bytes | a UUID in lower case |
| 240, 241, 242 | what the event has as its topic, merchant_id, program_id |
| 248 on | the one in `VALUES` |

What these numbers mean is on record: both tables may grow at their ends, and never change otherwise.
"""

import re
from binascii import hexlify, unhexlify
from collections.abc import Iterable, Mapping
from functools import lru_cache

BLOCK_FORMAT = b"\x01"

NAMES = (
    b"Content-Type",
    b"User-Agent",
    b"Date",
    b"X-Request-Id",
    b"Request-Id",
    b"X-Correlation-Id",
    b"Correlation-Id",
    b"Traceparent",
    b"Tracestate",
    b"X-Amzn-Trace-Id",
    b"X-Cloud-Trace-Context",
    b"X-B3-TraceId",
    b"X-B3-SpanId",
    b"Webhook-Id",
    b"Webhook-Timestamp",
    b"Webhook-Signature",
    b"X-Signature",
    b"X-Signature-256",
    b"X-Hub-Signature-256",
    b"X-Webhook-Signature",
    b"Stripe-Signature",
    b"X-Timestamp",
    b"Loopledger-Rejection",
    b"X-LOOPZ-WEBHOOK-TOPIC",
    b"X-LOOPZ-MERCHANT-ID",
    b"X-LOOPZ-PROGRAM-ID",
    b"X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID",
)

VALUES = (
    b"application/json",
    b"application/json; charset=utf-8",
    b"application/json;charset=utf-8",
    b"application/json; charset=UTF-8",
    b"application/json;charset=UTF-8",
)

_LOWER = 0x80
_LONG = 0xC0
_LONGEST = 0x1FFF
_HEX, _SHA256, _UUID = 0xE0, 0xE1, 0xE2
_TOPIC, _MERCHANT, _PROGRAM = 0xF0, 0xF1, 0xF2
_FIRST_VALUE = 0xF8

_SHA256_PREFIX = b"sha256="
_SHA256_SIZE, _DIGEST_SIZE, _UUID_SIZE = 71, 64, 36
_UUID_TEXT = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_LONGEST_NAME = 0xFF
_NAMES_REMEMBERED = 1_000
# Of few merchants come most deliveries.
_COLUMNS_REMEMBERED = 1_000

_NAME_CODES = {name: bytes([code]) for code, name in enumerate(NAMES, 1)}
_NAME_CODES |= {name.lower(): bytes([code | _LOWER]) for code, name in enumerate(NAMES, 1)}
_VALUE_CODES = {value: bytes([code]) for code, value in enumerate(VALUES, _FIRST_VALUE)}
_NAMES_BY_CODE = {code[0]: name for name, code in _NAME_CODES.items()}
_VALUES_BY_CODE = {code[0]: value for value, code in _VALUE_CODES.items()}


@lru_cache(_NAMES_REMEMBERED)
def encode_name(name: bytes) -> bytes:
    """The name of a header, as a block has it. Raises ValueError if it has more than 255 bytes."""
    if (code := _NAME_CODES.get(name)) is not None:
        return code
    if len(name) > _LONGEST_NAME:
        message = "the name of a header is too long for a block"
        raise ValueError(message)
    return bytes((0, len(name))) + name


def encode_value(value: bytes) -> bytes:
    """The value of a header, as a block has it if it has no code. Raises ValueError if it is too long."""
    size = len(value)
    if size == _SHA256_SIZE and value.startswith(_SHA256_PREFIX):
        if (packed := _unhex(value[-64:])) is not None:
            return b"\xe1" + packed
    elif size == _DIGEST_SIZE:
        if (packed := _unhex(value)) is not None:
            return b"\xe0\x20" + packed
    elif size == _UUID_SIZE and _UUID_TEXT.fullmatch(value):
        return b"\xe2" + unhexlify(value.replace(b"-", b""))
    if size < _LONG:
        return bytes((size,)) + value
    if size > _LONGEST:
        message = "the value of a header is too long for a block"
        raise ValueError(message)
    return bytes((_LONG | size >> 8, size & 0xFF)) + value


def _unhex(text: bytes) -> bytes | None:
    """The bytes that these digits stand for; None if they are others than hexadecimal ones in lower case."""
    try:
        packed = unhexlify(text)
    except ValueError:
        return None
    return packed if hexlify(packed) == text else None


@lru_cache(_COLUMNS_REMEMBERED)
def value_codes(topic: str, merchant_id: str, program_id: str | None) -> Mapping[bytes, bytes]:
    """The values that a block names by one byte: those that the event has anyway, and common ones."""
    codes = {_encode(topic): b"\xf0", _encode(merchant_id): b"\xf1", **_VALUE_CODES}
    if program_id is not None:
        codes[_encode(program_id)] = b"\xf2"
    return codes


def _encode(text: str) -> bytes:
    # What Postgres refuses later is not to fail here.
    return text.encode("utf-8", "surrogatepass")


def encode_headers(
    pairs: Iterable[tuple[bytes, bytes]], topic: str, merchant_id: str, program_id: str | None
) -> bytes:
    """The block of an event with these columns. Raises ValueError if a name or a value is too long."""
    codes = value_codes(topic, merchant_id, program_id)
    return BLOCK_FORMAT + b"".join(
        [encode_name(name) + (codes.get(value) or encode_value(value)) for name, value in pairs]
    )


def decode_headers(block: bytes, topic: str, merchant_id: str, program_id: str | None) -> bytes:
    """The "Name: value" lines that were kept. Raises ValueError if this is no block."""
    if not block.startswith(BLOCK_FORMAT):
        return block
    columns = {_TOPIC: topic, _MERCHANT: merchant_id, _PROGRAM: program_id or ""}
    lines = []
    at = 1
    try:
        while at < len(block):
            name, at = _decode_name(block, at)
            code = block[at]
            if code in columns:
                value, at = columns[code].encode(), at + 1
            else:
                value, at = _decode_value(block, at)
            lines.append(b"%b: %b\r\n" % (name, value))
    except (KeyError, IndexError):
        message = f"byte {at} of a block of headers means nothing"
        raise ValueError(message) from None
    return b"".join(lines)


def _decode_name(block: bytes, at: int) -> tuple[bytes, int]:
    if block[at]:
        return _NAMES_BY_CODE[block[at]], at + 1
    return _cut(block, at + 2, block[at + 1])


def _decode_value(block: bytes, at: int) -> tuple[bytes, int]:
    code = block[at]
    if code < _LONG:
        return _cut(block, at + 1, code)
    if code < _HEX:
        return _cut(block, at + 2, (code - _LONG) << 8 | block[at + 1])
    if code == _HEX:
        packed, at = _cut(block, at + 2, block[at + 1])
        return packed.hex().encode(), at
    if code == _SHA256:
        packed, at = _cut(block, at + 1, 32)
        return _SHA256_PREFIX + packed.hex().encode(), at
    if code == _UUID:
        packed, at = _cut(block, at + 1, 16)
        digits = packed.hex()
        parts = digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]
        return "-".join(parts).encode(), at
    return _VALUES_BY_CODE[code], at + 1


def _cut(block: bytes, start: int, size: int) -> tuple[bytes, int]:
    if start + size > len(block):
        raise IndexError
    return block[start : start + size], start + size
