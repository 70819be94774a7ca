"""What the tests of verification say often: secrets, settings of every method, deliveries that are in order."""

import base64
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from multidict import CIMultiDict

from tests.support import NOON
from verification.delivery import Delivery
from verification.signing import sign
from verification.verifier import (
    Secret,
    UnverifiedError,
    Verification,
    Verifier,
)

BODY = b'{"id": "l-1", "name": "Caf\xc3\xa9"}'
MESSAGE_ID = "msg_1"
SECOND = timedelta(seconds=1)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()

# Made up, all of them.
VALUES = {
    "PATH": "path-secret-0123456789",
    "OLD_PATH": "path-secret-9876543210",
    "PASSWORD": "pass:wörd-01234567890",
    "TOKEN": "token-0123456789",
    "OLD_TOKEN": "token-9876543210",
    "KEY": "key-0123456789abc",
    "OLD_KEY": "key-9876543210cba",
    "HEX": "00ff10" * 6,
    "WHSEC": "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode(),
    "OLD_WHSEC": "whsec_" + base64.b64encode(b"76543210fedcba9876543210").decode(),
    "WHPK": "whpk_" + PUBLIC,
    "EMPTY": "",
    "BLANK": "two words",
    "SHORT": "short",
    "SHORT_HEX": "0123456789abcdef" + "0123456789abcd",
    "SHORT_WHSEC": "whsec_" + base64.b64encode(b"0123456789abcde").decode(),
    "BAD": "whsec_n*t base64",
    "WHSK": "whsk_" + base64.b64encode(bytes(32)).decode(),
    "SHORT_WHPK": "whpk_" + base64.b64encode(bytes(31)).decode(),
}

TOKENS = {"header": "X-Token", "secrets": [{"env": "TOKEN"}]}
PLAIN = {"header": "X-Signature", "secrets": [{"env": "KEY"}]}
TIMED = PLAIN | {"template": "{timestamp}.{body}", "timestamp_header": "X-Timestamp"}
FULL = TIMED | {
    "template": "v1:{id}.{timestamp}.100%{url}|{body}!",
    "id_header": "X-Id",
    "url": "https://example.com/hooks?a=%20b",
}
STANDARD = {"secrets": [{"env": "WHSEC"}]}

# Every method; those of one line are told apart by what they sign.
METHODS: Mapping[str, dict[str, Any]] = {
    "path": {"path": [{"env": "PATH"}]},
    "basic": {"basic": [{"user": "loopz", "password": {"env": "PASSWORD"}}]},
    "bearer": {"tokens": {"secrets": [{"env": "TOKEN"}]}},
    "token": {"tokens": TOKENS},
    "schemed token": {"tokens": TOKENS | {"scheme": "Key"}},
    "hmac": {"hmac": PLAIN},
    "hmac sha512": {"hmac": PLAIN | {"algorithm": "sha512"}},
    "hmac base64": {"hmac": PLAIN | {"encoding": "base64", "prefix": "sha256="}},
    "hmac sha512 base64": {"hmac": PLAIN | {"algorithm": "sha512", "encoding": "base64"}},
    "hmac timed": {"hmac": TIMED},
    "hmac full": {"hmac": FULL},
    "hmac hex secret": {"hmac": PLAIN | {"secrets": [{"env": "HEX"}], "secret_encoding": "hex"}},
    "stripe": {"hmac": PLAIN | {"form": "stripe"}},
    "standard": {"standard_webhooks": STANDARD},
}
SIGNED = [name for name in METHODS if name.startswith(("hmac", "stripe", "standard"))]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As a provider's section holds it."""

    verification: Verification = Verification()


def secret(where: Secret) -> bytes:
    """Read a secret as a file would hold it."""
    return VALUES[where.env or ""].encode() + b"\n"


def verification(*specs: Mapping[str, Any]) -> Verification:
    """Settings, from their parts."""
    merged: dict[str, Any] = {}
    for spec in specs:
        merged |= spec
    return msgspec.convert(merged, Verification, strict=False)


def delivery_with(
    headers: Mapping[str, str] | None = None,
    path: str | None = None,
    address: str = "192.0.2.1",
) -> Delivery:
    """A delivery without its body, which comes at noon. `path` is the secret in its path."""
    return Delivery("loopz", path, address, CIMultiDict(headers or {}), (), NOON)


def verify(verifier: Verifier, delivery: Delivery) -> None:
    """Verify a delivery as ingest does: the head, then the body."""
    verifier.check_body(delivery, verifier.check_head(delivery))


def check(checked: Verification, head: Delivery, body: bytes = BODY, now: datetime = NOON) -> None:
    """Verify a delivery whose body this is, as of that time."""
    delivery = msgspec.structs.replace(head, body=body, received_at=now)
    verify(Verifier(checked, secret), delivery)


def signed(
    checked: Verification, body: bytes = BODY, now: datetime = NOON
) -> tuple[dict[str, str], str | None]:
    """The headers and the path's secret of a delivery that is in order."""
    path, headers = sign(checked, secret, "loopz", body, now, MESSAGE_ID)
    _, _, given = path.removeprefix("/webhooks/loopz").partition("/")
    return headers, given or None


def refused(checked: Verification, head: Delivery, body: bytes = BODY, now: datetime = NOON) -> str:
    """Why a delivery is refused."""
    with pytest.raises(UnverifiedError) as caught:
        check(checked, head, body, now)
    assert str(caught.value).startswith("The delivery is not verified: ")
    return str(caught.value.facts["problem"])


def basic(pair: str) -> str:
    """Credentials as RFC 7617 writes them."""
    return "Basic " + base64.b64encode(pair.encode()).decode()


def digest(key: str, message: bytes, algorithm: str = "sha256") -> bytes:
    """An HMAC, by the standard library."""
    return hmac.new(VALUES[key].encode(), message, algorithm).digest()


OPEN = {"EMPTY", "SHORT", "BLANK", "HEX"}


def told_nothing(text: str) -> bool:
    """Whether a text is free of every secret, and of what is computed from it."""
    told = [value for name, value in VALUES.items() if name not in OPEN]
    told += [value.partition("_")[2] for value in told if value.startswith("wh")]
    told += [digest(key, BODY).hex() for key in ("KEY", "OLD_KEY")]
    return not any(value in text for value in told)
