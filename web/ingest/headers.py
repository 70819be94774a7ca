"""Headers as they go on record: those known to be worth it, without what would let their reader in somewhere."""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from providers.provider import Recognised
from verification.delivery import Delivery
from verification.redaction import REDACTED, Redactor
from web.header_block import BLOCK_FORMAT, encode_name, encode_value, value_codes

# Besides those that providers and verification name. Any other header is not kept: whatever credentials may be called,
# they are not among these.
KEPT = frozenset(
    name.lower().encode()
    for name in (
        *("Content-Type", "User-Agent", "Date"),
        *("X-Request-Id", "Request-Id", "X-Correlation-Id", "Correlation-Id"),
        *("Traceparent", "Tracestate", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context"),
        *("X-B3-TraceId", "X-B3-SpanId"),
        *("Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"),
    )
)

# Marks an event that was a rejection first, with the rejection's id.
REJECTION_HEADER = b"Loopledger-Rejection"

# Stands for the value of a header that is not kept.
NOT_KEPT = b"[not kept]"

# A sender uses the same few header names all the time.
NAMES_REMEMBERED = 1_000

# Most headers of a sender are the same for all deliveries of one topic: so many are remembered, none longer than this.
COLUMNS_REMEMBERED = 1_000
PAIRS_REMEMBERED = 20
LONGEST_REMEMBERED = 100


class HeaderFilter:
    """Keeps headers by name.

    `kept` are names to keep besides the usual ones, `credentials` names never to keep, whatever else is said of them;
    no value is kept in which `redactor` finds a secret.
    """

    def __init__(
        self, kept: Iterable[str], credentials: Collection[bytes], redactor: Redactor
    ) -> None:
        # Only we may say that an event was a rejection first.
        never = {*credentials, REJECTION_HEADER.lower()}
        self._kept = (KEPT | {name.lower().encode() for name in kept}) - never
        self._finds = redactor.finds
        self._code_of = lru_cache(NAMES_REMEMBERED)(self._find_code)
        # Codes of values, and how headers that came before were encoded: it depends on nothing else.
        self._known = lru_cache(COLUMNS_REMEMBERED)(_known)

    def lines(self, delivery: Delivery) -> bytes:
        """The headers that are kept: "Name: value" lines, each ended by CR LF."""
        return b"".join(
            b"%b: %b\r\n" % (name, self._shown(value, delivery))
            for name, value in delivery.raw_headers
            if self._code_of(name) is not None
        )

    def stranger_lines(self, delivery: Delivery) -> bytes:
        """The same of a stranger, whose headers are only looked at; of the others too, that they were sent."""
        return b"".join(
            b"%b: %b\r\n"
            % (
                self._shown(name, delivery),
                NOT_KEPT if self._code_of(name) is None else self._shown(value, delivery),
            )
            for name, value in delivery.raw_headers
        )

    def block(self, delivery: Delivery, recognised: Recognised) -> bytes:
        """The same, as web/header_block.py writes them beside an event. Raises ValueError if a value is too long."""
        codes, known = self._known(
            recognised.topic,
            recognised.merchant_id,
            recognised.program_id,
            delivery.path_secret,
        )
        remembered = known.get
        parts = [
            self._encode(pair, codes, known, delivery)
            if (part := remembered(pair)) is None
            else part
            for pair in delivery.raw_headers
        ]
        return BLOCK_FORMAT + b"".join(parts)

    def _encode(
        self,
        pair: tuple[bytes, bytes],
        codes: Mapping[bytes, bytes],
        known: dict[tuple[bytes, bytes], bytes],
        delivery: Delivery,
    ) -> bytes:
        """A header as it goes into a block; nothing if it is not kept."""
        name, value = pair
        if (name_code := self._code_of(name)) is None:
            encoded = b""
        else:
            shown = self._shown(value, delivery)
            encoded = name_code + (codes.get(shown) or encode_value(shown))
        if len(known) < PAIRS_REMEMBERED and len(name) + len(value) < LONGEST_REMEMBERED:
            known[pair] = encoded
        return encoded

    def _find_code(self, name: bytes) -> bytes | None:
        return encode_name(name) if name.lower() in self._kept else None

    def _shown(self, value: bytes, delivery: Delivery) -> bytes:
        return REDACTED if self._finds(value, _given(delivery)) else value


def _given(delivery: Delivery) -> bytes | None:
    """What was sent as the secret of the path, right or nearly so: proxies repeat it in headers of theirs."""
    if not delivery.path_secret:
        return None
    return delivery.path_secret.encode("utf-8", "surrogateescape")


def _known(
    topic: str, merchant_id: str, program_id: str | None, _path_secret: str | None
) -> tuple[Mapping[bytes, bytes], dict[tuple[bytes, bytes], bytes]]:
    return value_codes(topic, merchant_id, program_id), {}
