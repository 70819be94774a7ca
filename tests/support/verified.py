"""Every way to verify a delivery, and deliveries signed so."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from runtime.secrets import read_secret
from tests.support import encoded, loopz_headers
from verification.signing import sign
from verification.verifier import Verification

BODY = encoded({"id": "l-1", "status": "ACTIVE"})

SECRET = "correct horse battery staple 42"  # noqa: S105 - made up

WHSEC = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ....").decode()

ONE_WAY: dict[str, dict[str, Any]] = {
    "path": {"path": [{"env": "DOOR_PATH"}]},
    "basic": {"basic": [{"user": "loopz", "password": {"env": "DOOR_SECRET"}}]},
    "bearer": {"tokens": {"secrets": [{"env": "DOOR_TOKEN"}]}},
    "hmac": {"hmac": {"header": "X-Signature", "secrets": [{"env": "DOOR_SECRET"}]}},
    "standard webhooks": {"standard_webhooks": {"secrets": [{"env": "DOOR_WHSEC"}]}},
}

VERIFICATIONS = ONE_WAY | {"hmac and path": ONE_WAY["hmac"] | ONE_WAY["path"]}

WithVerification = Callable[..., Any]


def signed(verification: dict[str, Any], body: bytes = BODY) -> tuple[str, dict[str, str]]:
    settings = msgspec.convert(verification, Verification)
    path, headers = sign(settings, read_secret, "loopz", body, datetime.now(UTC), "msg_1")
    return path, {**loopz_headers("location.updated"), **headers}
