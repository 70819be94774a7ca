"""Signatures: what is signed, how it is written, and for how long it is good."""

import base64
import hmac
import re
from datetime import timedelta
from typing import Literal

import pytest

from tests.support import NOON
from tests.support.verifying import (
    BODY,
    METHODS,
    PLAIN,
    SECOND,
    STANDARD,
    TIMED,
    VALUES,
    check,
    delivery_with,
    digest,
    refused,
    secret,
    signed,
    verification,
)
from verification.signatures import MOST_SIGNATURES, HmacKey
from verification.verifier import UnverifiedError, Verifier

# HMAC


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [16, 63, 64, 65, 127, 128, 129, 500])
def test_a_signature_is_that_of_the_standard_library(
    size: int, algorithm: Literal["sha256", "sha512"]
) -> None:
    key = bytes(n % 251 for n in range(size))
    signing = HmacKey(key, algorithm)
    for message in (b"", BODY, b"m" * 1_000):
        assert signing.digest(message) == hmac.digest(key, message, algorithm)


def test_a_signature_as_github_documents_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, "KEY", "It's a Secret to Everybody")
    documented = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    checked = verification({"hmac": PLAIN | {"header": "X-Hub-Signature-256", "prefix": "sha256="}})
    head = delivery_with({"X-Hub-Signature-256": f"sha256={documented}"})
    check(checked, head, b"Hello, World!")
    check(
        checked,
        delivery_with({"X-Hub-Signature-256": f"sha256={documented.upper()}"}),
        b"Hello, World!",
    )
    assert "wrong" in refused(checked, head, b"Hello, World.")


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("hmac sha512", "X-Signature", digest("KEY", BODY, "sha512").hex()),
        ("hmac base64", "X-Signature", "sha256=" + base64.b64encode(digest("KEY", BODY)).decode()),
        ("hmac timed", "X-Signature", digest("KEY", b"1767268800." + BODY).hex()),
        (
            "hmac full",
            "X-Signature",
            digest(
                "KEY",
                b"v1:msg_1.1767268800.100%https://example.com/hooks?a=%20b|" + BODY + b"!",
            ).hex(),
        ),
        (
            "hmac hex secret",
            "X-Signature",
            hmac.digest(b"\x00\xff\x10" * 6, BODY, "sha256").hex(),
        ),
        ("stripe", "X-Signature", "t=1767268800,v1=" + digest("KEY", b"1767268800." + BODY).hex()),
    ],
)
def test_what_is_signed_is_what_the_template_says(name: str, header: str, value: str) -> None:
    assert NOON.timestamp() == 1767268800
    headers, _ = signed(verification(METHODS[name]))
    assert headers[header] == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "sha256=",
        "\0",
        "é" * 64,
        "\udc80" * 64,
        "\u0661" * 64,
        "0" * 63,
        "0" * 65,
        "0" * 64 + "\n",
        "g" * 64,
        "0" * 10_000,
        base64.b64encode(bytes(32)).decode(),
    ],
)
def test_a_malformed_signature_is_refused_before_the_body_is_read(value: str) -> None:
    verifier = Verifier(verification(METHODS["hmac"]), secret)
    head = delivery_with({"X-Signature": value})
    with pytest.raises(UnverifiedError, match="malformed"):
        verifier.check_head(head)


@pytest.mark.parametrize(
    "value",
    [
        "t=1767268800",
        "v1=" + "0" * 64,
        "t=1767268800,v1=",
        "t=1767268800,t=1767268800,v1=" + "0" * 64,
        "t=1767268800 v1=" + "0" * 64,
        "t=1767268800,v0=" + "0" * 64,
        ",,,",
        "t=1767268800" + ",v1=" + "0" * 64 + ",x=1" * MOST_SIGNATURES,
    ],
)
def test_a_malformed_header_of_stripe_s_form_is_refused(value: str) -> None:
    assert "malformed" in refused(
        verification(METHODS["stripe"]), delivery_with({"X-Signature": value})
    )


def test_stripe_s_form_may_hold_several_signatures_and_other_schemes() -> None:
    checked = verification(METHODS["stripe"])
    right = digest("KEY", b"1767268800." + BODY).hex()
    wrong = "0" * 64
    for value in (
        f"v1={wrong},v0=x,v1={right}",
        f"v1={right},v1={wrong}",
        f"v1=bad,v1={right}",
        f"v1=,v1={right},v1=\ud800",
    ):
        check(checked, delivery_with({"X-Signature": f"t=1767268800,{value}"}))
    both_wrong = delivery_with({"X-Signature": f"t=1767268800,v1={wrong},v1={wrong}"})
    assert "wrong" in refused(checked, both_wrong)


@pytest.mark.parametrize("message_id", ["msg.1", "é", "", " ", "a\0", "a" * 201, "\udc80"])
def test_an_id_that_could_be_read_in_two_ways_is_refused(message_id: str) -> None:
    for name, header in (("hmac full", "X-Id"), ("standard", "webhook-id")):
        checked = verification(METHODS[name])
        headers, _ = signed(checked)
        head = delivery_with(headers | {header: message_id})
        assert refused(checked, head) == f"the header {header} is malformed"


# Timestamps: the window is tolerance_seconds to either side, edges included


@pytest.mark.parametrize("name", ["hmac timed", "hmac full", "stripe", "standard"])
@pytest.mark.parametrize(
    ("late", "accepted"),
    [
        (timedelta(0), True),
        (300 * SECOND, True),
        (-300 * SECOND, True),
        (300 * SECOND + timedelta(microseconds=1), False),
        (-300 * SECOND - timedelta(microseconds=1), False),
        (timedelta(days=10_000), False),
    ],
)
def test_a_delivery_is_good_for_the_tolerance_only(
    name: str, late: timedelta, *, accepted: bool
) -> None:
    checked = verification(METHODS[name])
    headers, _ = signed(checked)
    if accepted:
        check(checked, delivery_with(headers), now=NOON + late)
    else:
        assert "more than 300 s off" in refused(checked, delivery_with(headers), now=NOON + late)


def test_the_tolerance_can_be_set() -> None:
    checked = verification({"standard_webhooks": STANDARD | {"tolerance_seconds": 1}})
    headers, _ = signed(checked)
    check(checked, delivery_with(headers), now=NOON + SECOND)
    assert "more than 1 s off" in refused(checked, delivery_with(headers), now=NOON + 2 * SECOND)


@pytest.mark.parametrize(
    "text",
    [
        *("nan", "inf", "-1", "+1767268800", "1767268800.0", "1e9", " 1767268800", "1767268800 "),
        *(
            "9" * 13,
            "9" * 4301,
            "١٧٦٧٢٦٨٨٠٠",
            "0x1",
            "01767268800",
            "1_7",
            "\0",
            "\udc80",
            "1767268800\n",
            "12:00",
        ),
    ],
)
def test_a_timestamp_is_whole_seconds_in_ascii_digits(text: str) -> None:
    for name, header in (("hmac timed", "X-Timestamp"), ("standard", "webhook-timestamp")):
        checked = verification(METHODS[name])
        headers, _ = signed(checked)
        assert re.search(
            "whole seconds|malformed", refused(checked, delivery_with(headers | {header: text}))
        )
    stripe = verification(METHODS["stripe"])
    assert refused(stripe, delivery_with({"X-Signature": f"t={text},v1={'0' * 64}"}))


@pytest.mark.parametrize("template", ["{id}.{body}", "v1:{id}|{timestamp}{body}", "{body}.{id}"])
def test_no_other_id_and_body_have_the_signature_of_these(template: str) -> None:
    timed = TIMED if "timestamp" in template else PLAIN
    checked = verification({"hmac": timed | {"template": template, "id_header": "X-Id"}})
    headers, _ = signed(checked)
    check(checked, delivery_with(headers))
    divider = "|" if "|" in template else "."
    moved = {"X-Id": f"{headers['X-Id']}{divider}x", "X-Timestamp": headers.get("X-Timestamp", "")}
    assert "malformed" in refused(checked, delivery_with(headers | moved), BODY[1:])
