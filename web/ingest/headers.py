"""Headers as they go on record: as received, without what would let their reader in somewhere."""

from functools import lru_cache

from verification.delivery import Delivery

CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
CREDENTIAL_WORDS = (b"token", b"secret", b"password", b"api-key", b"apikey")

# Marks an event that was a rejection first, with the rejection's id.
REJECTION_HEADER = b"Loopledger-Rejection"

# A sender uses the same few header names all the time.
NAMES_REMEMBERED = 1_000


class HeaderFilter:
    """Leaves credentials out. `credentials` are names, in lower case, of headers that a verifier reads them from."""

    def __init__(self, credentials: frozenset[bytes]) -> None:
        self._credentials = credentials | CREDENTIALS
        self._is_left_out = lru_cache(NAMES_REMEMBERED)(self._decide)

    def kept(self, delivery: Delivery) -> bytes:
        """The headers as received, less the credentials: "Name: value" lines, each ended by CR LF.

        Proxies repeat the path of a request, and with it the secret in it.
        """
        pairs, is_left_out = delivery.raw_headers, self._is_left_out
        if delivery.path_secret:
            secret = delivery.path_secret.encode("utf-8", "surrogateescape")
            pairs = tuple(pair for pair in pairs if secret not in pair[1])
        return b"".join([b"%b: %b\r\n" % pair for pair in pairs if not is_left_out(pair[0])])

    def _decide(self, name: bytes) -> bool:
        lower = name.lower()
        return (
            # Only we may say that an event was a rejection first.
            lower == REJECTION_HEADER.lower()
            or lower in self._credentials
            or any(word in lower for word in CREDENTIAL_WORDS)
        )
