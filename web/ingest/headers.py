"""Headers as they go on record: those known to be worth it, without what would let their reader in somewhere."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from providers.provider import Recognised
from verification.delivery import Delivery
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

# Stands for a value with a secret of ours in it.
REDACTED = b"[redacted]"

# A secret shorter than this may be part of anything.
FEWEST_SECRET_BYTES = 6

# A sender uses the same few header names all the time.
NAMES_REMEMBERED = 1_000


class HeaderFilter:
    """Keeps headers by name.

    `kept` are names to keep besides the usual ones, `credentials` names never to keep, whatever else is said of them;
    `secrets` are not kept as part of any value, as they are or percent-encoded.
    """

    def __init__(
        self, kept: Iterable[str], credentials: Collection[bytes], secrets: Iterable[bytes]
    ) -> None:
        # Only we may say that an event was a rejection first.
        never = {*credentials, REJECTION_HEADER.lower()}
        self._kept = (KEPT | {name.lower().encode() for name in kept}) - never
        self._secrets = [one for one in set(secrets) if len(one) >= FEWEST_SECRET_BYTES]
        self._code_of = lru_cache(NAMES_REMEMBERED)(self._find_code)

    def lines(self, delivery: Delivery) -> bytes:
        """The headers that are kept: "Name: value" lines, each ended by CR LF."""
        secrets = self._secrets_of(delivery)
        return b"".join(
            [
                b"%b: %b\r\n" % (name, REDACTED if _is_secret(value, secrets) else value)
                for name, value in delivery.raw_headers
                if self._code_of(name) is not None
            ]
        )

    def block(self, delivery: Delivery, recognised: Recognised) -> bytes:
        """The same, as web/header_block.py writes them beside an event. Raises ValueError if a value is too long."""
        code_of, secrets = self._code_of, self._secrets_of(delivery)
        codes = value_codes(recognised.topic, recognised.merchant_id, recognised.program_id)
        parts = [BLOCK_FORMAT]
        for name, value in delivery.raw_headers:
            if (name_code := code_of(name)) is not None:
                value_code = codes.get(value)
                if value_code is None:
                    value_code = encode_value(REDACTED if _is_secret(value, secrets) else value)
                parts += name_code, value_code
        return b"".join(parts)

    def _find_code(self, name: bytes) -> bytes | None:
        return encode_name(name) if name.lower() in self._kept else None

    def _secrets_of(self, delivery: Delivery) -> list[bytes]:
        """What must not be part of a value: proxies repeat the path of a request, and with it the secret in it."""
        if not delivery.path_secret:
            return self._secrets
        return [*self._secrets, delivery.path_secret.encode("utf-8", "surrogateescape")]


def _is_secret(value: bytes, secrets: Iterable[bytes]) -> bool:
    plain = unquote_to_bytes(value) if b"%" in value else value
    # A loop: a generator for each value takes longer than to look for the secrets.
    for secret in secrets:  # noqa: SIM110
        if secret in plain or secret in value:
            return True
    return False
