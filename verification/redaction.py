"""Keeping secrets out of what is kept: in every form in which a server takes them, and as proxies repeat them."""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes, unquote_to_bytes

# Stands for a value with a secret of ours in it.
REDACTED = b"[redacted]"

# What was given in the place of a secret, and is shorter than this, may be part of anything.
FEWEST_GIVEN_BYTES = 6

# How often a value is percent-decoded: each proxy that repeats a path may encode it once more.
MOST_DECODINGS = 3

_WORD = re.compile(r"\S+")


class Redactor:
    """Finds secrets in bytes: as they are, percent-encoded, or anywhere within base64."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # What holds a longer one holds the shorter one, too.
        self._needles = tuple(
            one for one in sorted(forms) if not any(o in one for o in forms if o != one)
        )
        # To look for bytes in bytes takes Python several times as long as to look for text in text.
        self._texts = tuple(one.decode("latin-1") for one in self._needles)

    def finds(self, value: bytes, given: bytes | None = None) -> bool:
        """Whether a secret is in `value`; or `given`, which somebody has sent in the place of one."""
        if given is not None and len(given) < FEWEST_GIVEN_BYTES:
            given = None
        for _ in range(MOST_DECODINGS + 1):
            text = value.decode("latin-1")
            for needle in self._texts:
                if needle in text:
                    return True
            if given is not None and given in value:
                return True
            if "%" not in text:
                return False
            value = unquote_to_bytes(value)
        return False

    def text(self, text: str) -> str:
        """The text without secrets; where one is percent-encoded, without the whole word."""
        raw = text.encode("utf-8", "surrogatepass")
        if not self.finds(raw):
            return text
        for needle in self._needles:
            raw = raw.replace(needle, REDACTED)
        redacted = _WORD.sub(self._word, raw.decode("utf-8", "surrogatepass"))
        found = self.finds(redacted.encode("utf-8", "surrogatepass"))
        return REDACTED.decode() if found else redacted

    def _word(self, found: re.Match[str]) -> str:
        word = found[0]
        return REDACTED.decode() if self.finds(word.encode("utf-8", "surrogatepass")) else word


def _forms(secret: bytes) -> Iterable[bytes]:
    """What a text holds if it holds a secret, percent-encoding aside."""
    yield secret
    # As JSON has it, in the log.
    text = secret.decode("utf-8", "replace")
    for ascii_only in (True, False):
        yield json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode()
    yield quote_from_bytes(secret).encode()
    if secret.startswith(b"whsec_"):
        yield secret.removeprefix(b"whsec_").rstrip(b"=")
    # Within base64 a secret looks in one of three ways, by where it begins: less the digits that its neighbours share.
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + secret)
        first = -(-8 * offset // 6)
        last = 8 * (offset + len(secret)) // 6
        yield encoded[first:last]
        yield encoded[first:last].translate(bytes.maketrans(b"+/", b"-_"))
