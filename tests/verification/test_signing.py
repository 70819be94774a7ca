"""Signing: what verifies can sign, with few exceptions."""

import pytest

from tests.support import NOON
from tests.support.verifying import (
    SECOND,
    VALUES,
    signed,
    verification,
)
from verification.signing import UnsignableError


def test_what_verifies_cannot_always_sign() -> None:
    public = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}]}})
    with pytest.raises(UnsignableError, match=r"public keys.*the private key is the sender's"):
        signed(public)


def test_nothing_is_signed_with_a_secret_that_is_not_in_force() -> None:
    late = verification({"path": [{"env": "PATH", "not_before": NOON + SECOND}]})
    with pytest.raises(UnsignableError, match="no path secret is valid now"):
        signed(late)


def test_of_several_secrets_the_first_in_force_signs() -> None:
    ended = {"env": "OLD_PATH", "not_after": NOON}
    _, path = signed(verification({"path": [ended, {"env": "PATH"}]}))
    assert path == VALUES["PATH"]
