"""Standard Webhooks: as the reference libraries do it, with shared secrets and with public keys."""

import base64
import hmac
import json
from datetime import UTC, datetime

import pytest
import standardwebhooks

from tests.support.verifying import (
    BODY,
    MESSAGE_ID,
    METHODS,
    PRIVATE,
    PUBLIC,
    VALUES,
    check,
    delivery_with,
    refused,
    signed,
    verification,
)
from verification.signatures import MOST_PUBLIC_KEY_SIGNATURES, MOST_SIGNATURES


def test_the_vector_of_the_reference_libraries_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, "WHSEC", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    head = delivery_with(
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
    )
    then = datetime.fromtimestamp(1614265330, UTC)
    check(verification(METHODS["standard"]), head, b'{"test": 2432232314}', then)


def test_what_the_reference_library_signs_is_let_in_and_the_other_way_round() -> None:
    theirs = standardwebhooks.Webhook(VALUES["WHSEC"])
    now = datetime.now(UTC)
    checked = verification(METHODS["standard"])
    headers = {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": theirs.sign(MESSAGE_ID, now, BODY.decode()),
    }
    check(checked, delivery_with(headers), now=now)
    ours, _ = signed(checked, now=now)
    assert theirs.verify(BODY, ours) == json.loads(BODY)


def test_a_secret_may_come_bare_or_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = verification(METHODS["standard"])
    monkeypatch.setitem(VALUES, "WHSEC", "whsec_AAECAwQFBgcICQoLDA0ODw==")
    headers, _ = signed(checked)
    for same in (
        "AAECAwQFBgcICQoLDA0ODw==",
        "AAECAwQFBgcICQoLDA0ODw",
        "whsec_AAECAwQFBgcICQoLDA0ODw",
    ):
        monkeypatch.setitem(VALUES, "WHSEC", same)
        check(checked, delivery_with(headers))


def public_key_headers(body: bytes = BODY, *, extra: str = "") -> dict[str, str]:
    """What the holder of the private key sends."""
    signature = PRIVATE.sign(b"msg_1.1767268800." + body)
    return {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1767268800",
        "webhook-signature": f"{extra}v1a,{base64.b64encode(signature).decode()}",
    }


def test_a_public_key_verifies_what_its_private_key_has_signed() -> None:
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}]}})
    check(checked, delivery_with(public_key_headers()))
    check(checked, delivery_with(public_key_headers(extra=f"v1,{'A' * 43}= v2,x ")))
    assert "right" in refused(checked, delivery_with(public_key_headers()), BODY + b" ")
    wrong = f"v1a,{'A' * 86}=="
    assert "right" in refused(
        checked, delivery_with(public_key_headers() | {"webhook-signature": wrong})
    )
    # The right signature under another version; and under its own, but with spare bits of base64 set.
    right = public_key_headers()["webhook-signature"]
    for other in (
        f"{wrong} {right.replace('v1a', 'v2')}",
        right[:-3] + chr(ord(right[-3]) + 1) + "==",
    ):
        head = delivery_with(public_key_headers() | {"webhook-signature": other})
        assert "right" in refused(checked, head)
    assert right[-3] in "AQgw"
    symmetric, _ = signed(verification(METHODS["standard"]))
    assert refused(checked, delivery_with(symmetric)) == "webhook-signature holds no signature v1a"


def test_either_kind_of_signature_is_enough_while_a_sender_changes_over() -> None:
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}, {"env": "WHSEC"}]}})
    symmetric, _ = signed(checked)
    assert symmetric["webhook-signature"].startswith("v1,")
    check(checked, delivery_with(symmetric))
    check(checked, delivery_with(public_key_headers()))
    neither = public_key_headers() | {"webhook-signature": "v2,x"}
    assert "no signature v1 or v1a" in refused(checked, delivery_with(neither))


def test_a_public_key_is_no_secret_of_the_other_kind() -> None:
    """Who knows the public key (anybody may) must not be able to sign with it."""
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}]}})
    key = base64.b64decode(PUBLIC)
    forged = base64.b64encode(hmac.digest(key, b"msg_1.1767268800." + BODY, "sha256")).decode()
    assert refused(
        checked, delivery_with(public_key_headers() | {"webhook-signature": f"v1,{forged}"})
    )


@pytest.mark.parametrize(
    "value",
    [
        "v1",
        "v1,",
        " ",
        "v1," + "A" * 44,
        "v1,é" + "A" * 42 + "=",
        "v1a," + "A" * 87 + "=",
        "v1," + "-" * 43 + "=",
        "\0",
        "\ud800",
    ],
)
def test_a_malformed_signature_of_standard_webhooks_is_refused_and_does_not_spoil_a_right_one(
    value: str,
) -> None:
    checked = verification(METHODS["standard"])
    headers, _ = signed(checked)
    problem = refused(checked, delivery_with(headers | {"webhook-signature": value}))
    assert "malformed" in problem or "no signature v1" in problem
    right = headers["webhook-signature"]
    for text in (f"{value} {right}", f"{right} {value}"):
        check(checked, delivery_with(headers | {"webhook-signature": text}))


@pytest.mark.parametrize(
    ("item", "most"), [("v1,A", MOST_SIGNATURES), ("v1a,A", MOST_PUBLIC_KEY_SIGNATURES)]
)
def test_nobody_makes_us_look_at_ten_thousand_signatures(item: str, most: int) -> None:
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}, {"env": "WHSEC"}]}})
    headers = public_key_headers()
    for count, problem in ((most, "malformed"), (most + 1, "too many"), (10_000, "malformed")):
        head = delivery_with(headers | {"webhook-signature": " ".join([item] * count)})
        assert problem in refused(checked, head)
