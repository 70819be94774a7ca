"""Signed deliveries, so that their verification is part of what is measured."""

import hashlib
import hmac
import secrets

from simulation.deliveries import Delivery

SIGNATURE_HEADER = "X-Signature-256"
SIGNATURE_PREFIX = "sha256="


class Signer:
    """Signs bodies with a secret of this run."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(32)

    def headers(self, delivery: Delivery) -> dict[str, str]:
        """The headers of a delivery, its signature included."""
        signature = hmac.new(self.secret.encode(), delivery.body, hashlib.sha256).hexdigest()
        return delivery.headers | {SIGNATURE_HEADER: SIGNATURE_PREFIX + signature}
