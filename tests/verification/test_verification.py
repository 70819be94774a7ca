"""Verification: what is configured must hold; what does not hold is an UnverifiedError, and never tells a secret."""

import base64
import hmac
import io
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rich.pretty
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from eventstore.errors import LoopledgerError, SettingsError
from runtime.settings import load_settings
from tests.support import NOON, ROOT
from verification.keyring import Hidden
from verification.signatures import MOST_PUBLIC_KEY_SIGNATURES, MOST_SIGNATURES
from verification.signing import UnsignableError, sign
from verification.verifier import (
    Presented,
    Secret,
    UnverifiedError,
    Verification,
    Verifier,
)

PAGE = ROOT / "docs" / "verification.md"

BODY = b'{"id": "l-1", "name": "Caf\xc3\xa9"}'
MESSAGE_ID = "msg_1"
SECOND = timedelta(seconds=1)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()

# Made up, all of them.
VALUES = {
    "PATH": "path-secret-0123456789",
    "OLD_PATH": "path-secret-9876543210",
    "PASSWORD": "pass:wörd",
    "TOKEN": "token-0123456789",
    "OLD_TOKEN": "token-9876543210",
    "KEY": "key-0123456789",
    "OLD_KEY": "key-9876543210",
    "HEX": "00ff10",
    "WHSEC": "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode(),
    "OLD_WHSEC": "whsec_" + base64.b64encode(b"76543210fedcba9876543210").decode(),
    "WHPK": "whpk_" + PUBLIC,
    "EMPTY": "",
    "BLANK": "two words",
    "SHORT": "short",
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


def presented(
    headers: Mapping[str, str] | None = None,
    path: str | None = None,
    address: str = "192.0.2.1",
) -> Presented:
    """A head."""
    return Presented(CIMultiDict(headers or {}), address, path)


def check(checked: Verification, head: Presented, body: bytes = BODY, now: datetime = NOON) -> None:
    """Verify a delivery as ingest does; head and body apart come to the same."""
    verifier = Verifier(checked, secret)
    apart = problem_of(verifier.check_head, head, now) or problem_of(
        verifier.check_body, head, body, now
    )
    assert problem_of(verifier.check, head, body, now) == apart
    verifier.check(head, body, now)


def delivery(
    checked: Verification, body: bytes = BODY, now: datetime = NOON
) -> tuple[dict[str, str], str | None]:
    """The headers and the path's secret of a delivery that is in order."""
    path, headers = sign(checked, secret, "loopz", body, now, MESSAGE_ID)
    _, _, given = path.removeprefix("/webhooks/loopz").partition("/")
    return headers, given or None


def refused(
    checked: Verification, head: Presented, body: bytes = BODY, now: datetime = NOON
) -> str:
    """Why a delivery is refused."""
    with pytest.raises(UnverifiedError) as caught:
        check(checked, head, body, now)
    assert str(caught.value).startswith("The delivery is not verified: ")
    return str(caught.value.facts["problem"])


def basic(pair: str) -> str:
    """Credentials as RFC 7617 writes them."""
    return "Basic " + base64.b64encode(pair.encode()).decode()


# What is configured


def test_nothing_configured_is_nothing_checked() -> None:
    checked = verification()
    check(checked, presented({"Authorization": "?"}, path="x", address=""))
    Verifier(checked, secret).check_tenant("m-1", None, None)
    assert not checked.configured
    assert not Verifier(checked, secret).configured


@pytest.mark.parametrize(
    "spec",
    [
        {"addresses": ["192.0.2.0/24"]},
        {"merchant_ids": ["m-1"]},
        {"program_ids": ["p-1"], "subscription_ids": ["s-1"]},
    ],
)
def test_an_allow_list_alone_keeps_no_stranger_out(spec: dict[str, Any]) -> None:
    assert not verification(spec).configured
    assert not Verifier(verification(spec), secret).configured


@pytest.mark.parametrize("name", METHODS)
def test_every_method_lets_its_own_delivery_in_and_a_stranger_s_not(name: str) -> None:
    checked = verification(METHODS[name])
    headers, path = delivery(checked)
    assert checked.configured
    assert Verifier(checked, secret).configured
    check(checked, presented(headers, path))
    # Names of headers have no case, and other headers do not matter.
    check(checked, presented({key.upper(): headers[key] for key in headers} | {"X": ""}, path))
    with pytest.raises(UnverifiedError):
        Verifier(checked, secret).check_head(presented(), NOON)


@given(st.sets(st.sampled_from(sorted(METHODS)), min_size=1))
@settings(max_examples=100)
def test_of_several_methods_every_one_must_hold(names: set[str]) -> None:
    specs = [METHODS[name] for name in sorted(names)]
    try:
        checked = verification(*specs)
    except msgspec.ValidationError as error:
        assert "cannot both be in the header Authorization" in str(error)  # noqa: PT017 - or no error at all
        return
    headers, path = delivery(checked)
    check(checked, presented(headers, path))
    for left_out in headers:
        check_fails = presented({key: headers[key] for key in headers if key != left_out}, path)
        assert refused(checked, check_fails)
    if path:
        assert refused(checked, presented(headers)) == "the secret is missing from the path"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "path"])
def test_a_repeated_header_is_refused(name: str) -> None:
    checked = verification(METHODS[name])
    headers, _ = delivery(checked)
    for repeated, value in headers.items():
        both = CIMultiDict(headers)
        both.add(repeated.lower(), value)
        problem = refused(checked, Presented(both, "192.0.2.1", None))
        assert problem == f"the header {repeated} is repeated"


def test_headers_of_a_plain_mapping_are_read_too() -> None:
    checked = verification(METHODS["hmac"])
    headers, _ = delivery(checked)
    check(checked, Presented(headers, "192.0.2.1", None))
    assert refused(checked, Presented({}, "192.0.2.1", None)) == "the header X-Signature is missing"


def test_the_log_is_told_which_headers_are_credentials() -> None:
    both = verification(METHODS["basic"], METHODS["token"])
    assert Verifier(both, secret).credential_headers == {b"authorization", b"x-token"}
    assert Verifier(verification(METHODS["standard"]), secret).credential_headers == set()


# Credentials


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        "path-secret-012345678",
        "path-secret-01234567890",
        "PATH-SECRET-0123456789",
        "\udcff\0",
    ],
)
def test_a_wrong_secret_in_the_path_is_refused(path: str | None) -> None:
    assert "path" in refused(verification(METHODS["path"]), presented(path=path))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (basic("loopz:pass:wörd"), None),
        (basic("loopz:pass:wörd").replace("Basic", "bASIC"), None),
        (basic("loopz:pass:word"), "user or the password"),
        (basic("Loopz:pass:wörd"), "user or the password"),
        (basic("loopz:"), "user or the password"),
        (basic("loopz"), "no Basic credentials"),
        (basic(""), "no Basic credentials"),
        (basic("loopz:pass:wörd").rstrip("="), "no Basic credentials"),
        (basic("loopz:pass:wörd").replace(" ", "  "), "no Basic credentials"),
        (basic("loopz:pass:wörd") + " ", "no Basic credentials"),
        ("Basic", "no Basic credentials"),
        ("Basic loopz:pass", "no Basic credentials"),
        ("Basic \udcff\0é", "no Basic credentials"),
        ("Bearer token-0123456789", "no Basic credentials"),
        (basic("loopz:pass:wörd").replace("Basic", "Bearer"), "no Basic credentials"),
        ("", "malformed"),
        ("Basic " + "A" * 10_000, "malformed"),
    ],
)
def test_basic_credentials(value: str, problem: str | None) -> None:
    checked = verification(METHODS["basic"])
    head = presented({"Authorization": value})
    if problem is None:
        check(checked, head)
    else:
        assert problem in refused(checked, head)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("bearer", "Bearer token-0123456789", None),
        ("bearer", "bearer token-0123456789", None),
        ("bearer", "Bearer  token-0123456789", "wrong"),
        ("bearer", "Bearer token-0123456789 ", "wrong"),
        ("bearer", "Bearer\ttoken-0123456789", "not of the scheme bearer"),
        ("bearer", "Bearer TOKEN-0123456789", "wrong"),
        ("bearer", "Bearer ", "wrong"),
        ("bearer", "Bearer", "not of the scheme bearer"),
        ("bearer", "token-0123456789", "not of the scheme bearer"),
        ("bearer", "Bearer \ud800\0é", "wrong"),
        ("bearer", "B" * 10_000, "malformed"),
        ("token", "token-0123456789", None),
        ("token", "Bearer token-0123456789", "wrong"),
        ("token", "token-012345678", "wrong"),
        ("token", "", "malformed"),
        ("schemed token", "key token-0123456789", None),
        ("schemed token", "token-0123456789", "not of the scheme key"),
    ],
)
def test_tokens(name: str, value: str, problem: str | None) -> None:
    checked = verification(METHODS[name])
    assert checked.tokens is not None
    head = presented({checked.tokens.header: value})
    if problem is None:
        check(checked, head)
    else:
        assert problem in refused(checked, head)


# HMAC


def digest(key: str, message: bytes, algorithm: str = "sha256") -> bytes:
    """An HMAC, by the standard library."""
    return hmac.new(VALUES[key].encode(), message, algorithm).digest()


def test_a_signature_as_github_documents_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, "KEY", "It's a Secret to Everybody")
    documented = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    checked = verification({"hmac": PLAIN | {"header": "X-Hub-Signature-256", "prefix": "sha256="}})
    head = presented({"X-Hub-Signature-256": f"sha256={documented}"})
    check(checked, head, b"Hello, World!")
    check(
        checked,
        presented({"X-Hub-Signature-256": f"sha256={documented.upper()}"}),
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
            hmac.digest(b"\x00\xff\x10", BODY, "sha256").hex(),
        ),
        ("stripe", "X-Signature", "t=1767268800,v1=" + digest("KEY", b"1767268800." + BODY).hex()),
    ],
)
def test_what_is_signed_is_what_the_template_says(name: str, header: str, value: str) -> None:
    assert NOON.timestamp() == 1767268800
    headers, _ = delivery(verification(METHODS[name]))
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
    head = presented({"X-Signature": value})
    with pytest.raises(UnverifiedError, match="malformed"):
        verifier.check_head(head, NOON)
    with pytest.raises(UnverifiedError):
        verifier.check_body(head, BODY, NOON)


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
        verification(METHODS["stripe"]), presented({"X-Signature": value})
    )


def test_stripe_s_form_may_hold_several_signatures_and_other_schemes() -> None:
    checked = verification(METHODS["stripe"])
    right = digest("KEY", b"1767268800." + BODY).hex()
    wrong = "0" * 64
    for value in (f"v1={wrong},v0=x,v1={right}", f"v1={right},v1={wrong}"):
        check(checked, presented({"X-Signature": f"t=1767268800,{value}"}))
    both_wrong = presented({"X-Signature": f"t=1767268800,v1={wrong},v1={wrong}"})
    assert "wrong" in refused(checked, both_wrong)


@pytest.mark.parametrize("message_id", ["msg.1", "é", "", " ", "a\0", "a" * 201, "\udc80"])
def test_an_id_that_could_be_read_in_two_ways_is_refused(message_id: str) -> None:
    for name, header in (("hmac full", "X-Id"), ("standard", "webhook-id")):
        checked = verification(METHODS[name])
        headers, _ = delivery(checked)
        head = presented(headers | {header: message_id})
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
    headers, _ = delivery(checked)
    if accepted:
        check(checked, presented(headers), now=NOON + late)
    else:
        assert "over 300 s off" in refused(checked, presented(headers), now=NOON + late)


def test_the_tolerance_can_be_set() -> None:
    checked = verification({"standard_webhooks": STANDARD | {"tolerance_seconds": 1}})
    headers, _ = delivery(checked)
    check(checked, presented(headers), now=NOON + SECOND)
    assert "over 1 s off" in refused(checked, presented(headers), now=NOON + 2 * SECOND)


@pytest.mark.parametrize(
    "text",
    [
        *("nan", "inf", "-1", "+1767268800", "1767268800.0", "1e9", " 1767268800", "1767268800 "),
        *(
            "9" * 13,
            "9" * 4301,
            "١٧٦٧٢٦٨٨٠٠",
            "0x1",
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
        headers, _ = delivery(checked)
        assert re.search(
            "whole seconds|malformed", refused(checked, presented(headers | {header: text}))
        )
    stripe = verification(METHODS["stripe"])
    assert refused(stripe, presented({"X-Signature": f"t={text},v1={'0' * 64}"}))


# Standard Webhooks


def test_the_vector_of_the_reference_libraries_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VALUES, "WHSEC", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    head = presented(
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
    check(checked, presented(headers), now=now)
    ours, _ = delivery(checked, now=now)
    assert theirs.verify(BODY, ours) == json.loads(BODY)


def test_a_secret_may_come_bare_or_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = verification(METHODS["standard"])
    monkeypatch.setitem(VALUES, "WHSEC", "whsec_AAECAwQFBgcICQoLDA0ODw==")
    headers, _ = delivery(checked)
    for same in (
        "AAECAwQFBgcICQoLDA0ODw==",
        "AAECAwQFBgcICQoLDA0ODw",
        "whsec_AAECAwQFBgcICQoLDA0ODw",
    ):
        monkeypatch.setitem(VALUES, "WHSEC", same)
        check(checked, presented(headers))


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
    check(checked, presented(public_key_headers()))
    check(checked, presented(public_key_headers(extra=f"v1,{'A' * 43}= v2,x ")))
    assert "right" in refused(checked, presented(public_key_headers()), BODY + b" ")
    wrong = f"v1a,{'A' * 86}=="
    assert "right" in refused(
        checked, presented(public_key_headers() | {"webhook-signature": wrong})
    )
    # The right signature under another version; and under its own, but with spare bits of base64 set.
    right = public_key_headers()["webhook-signature"]
    for other in (
        f"{wrong} {right.replace('v1a', 'v2')}",
        right[:-3] + chr(ord(right[-3]) + 1) + "==",
    ):
        head = presented(public_key_headers() | {"webhook-signature": other})
        assert "right" in refused(checked, head)
    assert right[-3] in "AQgw"
    symmetric, _ = delivery(verification(METHODS["standard"]))
    assert refused(checked, presented(symmetric)) == "webhook-signature holds no signature v1a"


def test_either_kind_of_signature_is_enough_while_a_sender_changes_over() -> None:
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}, {"env": "WHSEC"}]}})
    symmetric, _ = delivery(checked)
    assert symmetric["webhook-signature"].startswith("v1,")
    check(checked, presented(symmetric))
    check(checked, presented(public_key_headers()))
    neither = public_key_headers() | {"webhook-signature": "v2,x"}
    assert "no signature v1 or v1a" in refused(checked, presented(neither))


def test_a_public_key_is_no_secret_of_the_other_kind() -> None:
    """Who knows the public key (anybody may) must not be able to sign with it."""
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}]}})
    key = base64.b64decode(PUBLIC)
    forged = base64.b64encode(hmac.digest(key, b"msg_1.1767268800." + BODY, "sha256")).decode()
    assert refused(checked, presented(public_key_headers() | {"webhook-signature": f"v1,{forged}"}))


@pytest.mark.parametrize(
    "value",
    [
        "v1",
        "v1,",
        " ",
        "v1," + "A" * 44,
        "v1," + "A" * 43 + "= ",
        "v1,é" + "A" * 42 + "=",
        "v1a," + "A" * 87 + "=",
        "v1," + "-" * 43 + "=",
        "\0",
        "\ud800",
    ],
)
def test_a_malformed_signature_of_standard_webhooks_is_refused(value: str) -> None:
    checked = verification(METHODS["standard"])
    headers, _ = delivery(checked)
    for text in (value, f"{headers['webhook-signature']} {value}"):
        assert "malformed" in refused(checked, presented(headers | {"webhook-signature": text}))


@pytest.mark.parametrize(
    ("item", "most"), [("v1,A", MOST_SIGNATURES), ("v1a,A", MOST_PUBLIC_KEY_SIGNATURES)]
)
def test_nobody_makes_us_look_at_ten_thousand_signatures(item: str, most: int) -> None:
    checked = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}, {"env": "WHSEC"}]}})
    headers = public_key_headers()
    for count, problem in ((most, "malformed"), (most + 1, "too many"), (10_000, "malformed")):
        head = presented(headers | {"webhook-signature": " ".join([item] * count)})
        assert problem in refused(checked, head)


# Rotation


ROTATED: Mapping[str, Any] = {
    "path": {"path": [{"env": "PATH"}, {"env": "OLD_PATH"}]},
    "bearer": {"tokens": {"secrets": [{"env": "TOKEN"}, {"env": "OLD_TOKEN"}]}},
    "hmac": {"hmac": PLAIN | {"secrets": [{"env": "KEY"}, {"env": "OLD_KEY"}]}},
    "stripe": {"hmac": PLAIN | {"form": "stripe", "secrets": [{"env": "KEY"}, {"env": "OLD_KEY"}]}},
    "standard": {"standard_webhooks": {"secrets": [{"env": "WHSEC"}, {"env": "OLD_WHSEC"}]}},
}


def with_secrets(spec: Any, change: Callable[[list[Any]], list[Any]]) -> Any:  # noqa: ANN401 - settings, nested
    """The same settings with other lists of secrets."""
    if isinstance(spec, list):
        return change(spec)
    if isinstance(spec, dict):
        return {key: with_secrets(value, change) for key, value in spec.items()}
    return spec


@pytest.mark.parametrize("name", ROTATED)
def test_while_a_secret_is_rotated_both_are_good(name: str) -> None:
    both = verification(ROTATED[name])
    new = verification(with_secrets(ROTATED[name], lambda secrets: secrets[:1]))
    old = verification(with_secrets(ROTATED[name], lambda secrets: secrets[1:]))
    for signer in (new, old):
        check(both, presented(*delivery(signer)))
    assert refused(new, presented(*delivery(old)))
    assert refused(old, presented(*delivery(new)))


@pytest.mark.parametrize("name", [*ROTATED, "basic"])
def test_a_secret_is_in_force_from_not_before_until_just_before_not_after(name: str) -> None:
    window = {"not_before": NOON - SECOND, "not_after": (NOON + SECOND).isoformat()}
    always = METHODS[name]
    if name == "basic":
        bound: Any = {"basic": [{"user": "loopz", "password": {"env": "PASSWORD"} | window}]}
    else:
        bound = with_secrets(always, lambda secrets: [secrets[0] | window])
    head = presented(*delivery(verification(always)))
    checked = verification(bound)
    for now in (NOON - SECOND, NOON, NOON + SECOND - timedelta(microseconds=1)):
        check(checked, head, now=now)
    for now in (NOON - SECOND - timedelta(microseconds=1), NOON + SECOND):
        assert "in force at present" in refused(checked, head, now=now)


# Addresses


@pytest.mark.parametrize(
    ("addresses", "address", "accepted"),
    [
        (["192.0.2.0/24"], "192.0.2.255", True),
        (["192.0.2.0/24"], "192.0.3.0", False),
        (["192.0.2.7"], "192.0.2.7", True),
        (["198.51.100.0/24", "2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["192.0.2.0/24"], "::ffff:192.0.2.1", True),
        (["192.0.2.0/24"], "::ffff:192.0.3.1", False),
        (["::ffff:192.0.2.0/120"], "192.0.2.1", True),
        (["::/0"], "192.0.2.1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["192.0.2.0/24"], "", False),
        (["192.0.2.0/24"], "192.0.2.1.example.com", False),
        (["192.0.2.0/24"], "192.0.2.01", False),
        (["192.0.2.0/24"], "١٩٢.0.2.1", False),
        (["192.0.2.0/24"], "\ud800\0", False),
    ],
)
def test_addresses(addresses: list[str], address: str, *, accepted: bool) -> None:
    checked = verification({"addresses": addresses})
    if accepted:
        check(checked, presented(address=address))
    else:
        assert "address" in refused(checked, presented(address=address))


@pytest.mark.parametrize(
    ("proxies", "forwarded", "accepted"),
    [
        (1, ["192.0.2.1"], True),
        (1, ["192.0.2.1:4711"], True),
        (1, ["198.51.100.9, 192.0.2.1"], True),
        (1, ["198.51.100.9,192.0.2.1"], True),
        (1, ["198.51.100.9", "192.0.2.1"], True),
        (1, ["192.0.2.1, 198.51.100.9"], False),
        (1, ["192.0.2.1", "198.51.100.9"], False),
        (2, ["192.0.2.1, 198.51.100.9"], True),
        (2, ["192.0.2.1", "198.51.100.9"], True),
        (2, ["6.6.6.6, 192.0.2.1, 198.51.100.9"], True),
        (2, ["192.0.2.1, 6.6.6.6, 198.51.100.9"], False),
        (2, ["192.0.2.1"], False),
        (1, [], False),
        (1, [""], False),
        (1, ["192.0.2.1,"], False),
        (1, ["unknown"], False),
        (1, ["[2001:db8::1]:4711"], True),
        (1, ["[2001:db8::1]"], True),
        (1, ["2001:db8::1"], True),
        (1, ["[]"], False),
        (1, ["[2001:db8::1"], False),
        (16, ["192.0.2.1"] + ["198.51.100.9"] * 15, True),
        (16, ["192.0.2.1"] * 15, False),
    ],
)
def test_behind_proxies_the_address_is_what_the_outermost_trusted_one_saw(
    proxies: int, forwarded: list[str], *, accepted: bool
) -> None:
    checked = verification(
        {"addresses": ["192.0.2.0/24", "2001:db8::/32"], "trusted_proxies": proxies}
    )
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    # The peer is the proxy: that its own address would be allowed does not matter.
    head = Presented(headers, "192.0.2.1", None)
    if accepted:
        check(checked, head)
    else:
        assert "address" in refused(checked, head)


def test_without_trusted_proxies_nobody_says_his_own_address() -> None:
    checked = verification({"addresses": ["192.0.2.0/24"]})
    head = presented({"X-Forwarded-For": "192.0.2.1"}, address="198.51.100.9")
    assert "none of those allowed" in refused(checked, head)


# Tenants


@pytest.mark.parametrize(
    ("spec", "tenant", "accepted"),
    [
        ({"merchant_ids": ["m-1", "m-2"]}, ("m-2", None, None), True),
        ({"merchant_ids": ["m-1"]}, ("m-2", None, None), False),
        ({"merchant_ids": ["m-1"]}, ("M-1", None, None), False),
        ({"merchant_ids": [66]}, ("66", None, None), True),
        ({"merchant_ids": [66]}, ("6", None, None), False),
        ({"program_ids": ["p-1"]}, ("m-1", "p-1", None), True),
        ({"program_ids": ["p-1"]}, ("m-1", None, None), False),
        ({"subscription_ids": ["s-1"]}, ("m-1", None, "s-1"), True),
        ({"subscription_ids": ["s-1"]}, ("m-1", "s-1", "s-2"), False),
        ({"subscription_ids": ["s-1"]}, ("m-1", None, None), False),
        ({"merchant_ids": ["m-1"], "program_ids": ["p-1"]}, ("m-1", "p-2", None), False),
    ],
)
def test_tenants(
    spec: dict[str, Any], tenant: tuple[str, str | None, str | None], *, accepted: bool
) -> None:
    verifier = Verifier(verification(spec), secret)
    if accepted:
        verifier.check_tenant(*tenant)
    else:
        with pytest.raises(UnverifiedError, match="none of those that are taken here"):
            verifier.check_tenant(*tenant)


# Settings


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": []}, r"length >= 1 - at `\$.path`"),
        ({"addresses": []}, "length >= 1"),
        ({"merchant_ids": []}, "length >= 1"),
        ({"path": [{}]}, "needs either `env` or `file`"),
        ({"path": [{"env": "A", "file": "/a"}]}, "needs either `env` or `file`"),
        ({"path": [{"env": "whsec_x=="}]}, "not the name of an environment variable"),
        ({"path": [{"env": "A", "value": "x"}]}, "unknown field"),
        ({"path": [{"env": "A", "not_before": "2026-01-01T00:00:00"}]}, "timezone"),
        (
            {"path": [{"env": "A", "not_before": NOON, "not_after": NOON}]},
            "`not_before` must be earlier",
        ),
        ({"basic": [{"user": "a:b", "password": {"env": "A"}}]}, "without a colon"),
        ({"tokens": TOKENS | {"header": "X Token"}}, "not the name of a header"),
        ({"tokens": TOKENS | {"scheme": "two words"}}, "one word"),
        ({"hmac": PLAIN | {"algorithm": "md5"}}, "Invalid enum value"),
        ({"hmac": PLAIN | {"template": "{timestamp}"}}, "must hold {body}"),
        ({"hmac": PLAIN | {"template": "{body}{body}"}}, "nothing twice"),
        ({"hmac": PLAIN | {"template": "{body}{nonce}"}}, "no other braces"),
        ({"hmac": PLAIN | {"template": "{body!r}"}}, "no other braces"),
        ({"hmac": PLAIN | {"template": "{{body}}"}}, "no other braces"),
        ({"hmac": PLAIN | {"template": "{timestamp}.{body}"}}, "`timestamp_header` need each"),
        ({"hmac": PLAIN | {"timestamp_header": "X-T"}}, "`timestamp_header` need each"),
        ({"hmac": PLAIN | {"template": "{id}.{body}"}}, "`id_header` need each"),
        ({"hmac": PLAIN | {"id_header": "X-Id"}}, "`id_header` need each"),
        ({"hmac": PLAIN | {"template": "{url}{body}"}}, "`url` need each"),
        ({"hmac": PLAIN | {"url": "https://example.com"}}, "`url` need each"),
        ({"hmac": PLAIN | {"form": "stripe", "template": "{body}"}}, "`form` need each"),
        ({"hmac": PLAIN | {"form": "stripe", "prefix": "x"}}, "has neither"),
        ({"hmac": PLAIN | {"prefix": "é"}}, "printable ASCII"),
        ({"hmac": TIMED | {"tolerance_seconds": 0}}, "`int` >= 1"),
        ({"addresses": ["192.0.2.1/24"]}, "no network"),
        ({"addresses": ["example.com"]}, "no network"),
        ({"trusted_proxies": -1}, "`int` >= 0"),
        (METHODS["basic"] | METHODS["bearer"], "cannot both be in the header Authorization"),
        (
            {"hmac": PLAIN | {"header": "Webhook-Signature"}} | METHODS["standard"],
            "cannot both be in the header webhook-signature",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        verification(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": [{"env": "PATH"}, {"env": "EMPTY"}]}, r"loopz.verification.path\[1\] is empty"),
        ({"path": [{"env": "SHORT"}]}, r"path\[0\] must be 16 or more.*environment, SHORT"),
        ({"path": [{"env": "BLANK"}]}, "must be 16 or more"),
        (
            {"basic": [{"user": "u", "password": {"env": "EMPTY"}}]},
            r"basic\[0\].password is empty",
        ),
        ({"tokens": TOKENS | {"secrets": [{"env": "BLANK"}]}}, "visible ASCII"),
        ({"tokens": TOKENS | {"secrets": [{"env": "PASSWORD"}]}}, "visible ASCII"),
        ({"hmac": PLAIN | {"secrets": [{"env": "EMPTY"}]}}, r"hmac.secrets\[0\] is empty"),
        ({"hmac": PLAIN | {"secret_encoding": "hex"}}, "is not hex"),
        ({"hmac": PLAIN | {"secret_encoding": "base64"}}, "is not base64"),
        ({"standard_webhooks": {"secrets": [{"env": "BAD"}]}}, "is not base64"),
        ({"standard_webhooks": {"secrets": [{"env": "PASSWORD"}]}}, "is not base64"),
        ({"standard_webhooks": {"secrets": [{"env": "EMPTY"}]}}, "is empty"),
        ({"standard_webhooks": {"secrets": [{"env": "WHSK"}]}}, "private key"),
        ({"standard_webhooks": {"secrets": [{"env": "SHORT_WHPK"}]}}, "32 bytes"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_at_the_start(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Verifier(verification(spec), secret, "loopz.verification")
    assert told_nothing(str(caught.value))


# Signing


def test_what_verifies_cannot_always_sign() -> None:
    public = verification({"standard_webhooks": {"secrets": [{"env": "WHPK"}]}})
    with pytest.raises(UnsignableError, match=r"public keys.*the private key is the sender's"):
        delivery(public)


def test_nothing_is_signed_with_a_secret_that_is_not_in_force() -> None:
    late = verification({"path": [{"env": "PATH", "not_before": NOON + SECOND}]})
    with pytest.raises(UnsignableError, match="no secret of the path is in force"):
        delivery(late)


def test_of_several_secrets_the_first_in_force_signs() -> None:
    ended = {"env": "OLD_PATH", "not_after": NOON}
    _, path = delivery(verification({"path": [ended, {"env": "PATH"}]}))
    assert path == VALUES["PATH"]


# Whatever comes

CHARACTERS = st.text(st.characters(codec=None), max_size=30)
NEARLY = st.one_of(
    CHARACTERS,
    st.sampled_from(["nan", "1767268800", "Basic ", "Bearer ", "v1,", "v1a,", "t=1767268800,v1="]),
    st.sampled_from([f"v1,{'A' * 43}=", "0" * 64, "9" * 400, f"v1a,{'A' * 86}==", "msg_1"]),
    st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.lists(st.sampled_from([f"v1,{'A' * 43}=", "v1a,", f"v1a,{'A' * 86}==", ""])).map(" ".join),
)
NAMES = ["Authorization", "X-Token", "X-Signature", "X-Timestamp", "X-Id", "X-Forwarded-For"]
NAMES += ["webhook-id", "webhook-timestamp", "webhook-signature"]
VERIFIERS = [
    Verifier(verification(spec), secret)
    for spec in [
        *METHODS.values(),
        {"standard_webhooks": {"secrets": [{"env": "WHPK"}]}},
        {"addresses": ["192.0.2.0/24"], "trusted_proxies": 2},
        {"addresses": ["192.0.2.0/24"]},
    ]
]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), NEARLY), max_size=9).map(CIMultiDict),
    CHARACTERS,
    st.none() | CHARACTERS,
    st.binary(max_size=40),
)
@example(CIMultiDict({"X-Signature": "0" * 64}), "", None, b"")
@settings(max_examples=300)
def test_whatever_a_stranger_sends_is_unverified_and_no_other_error(
    headers: "CIMultiDict[str]", address: str, path: str | None, body: bytes
) -> None:
    head = Presented(headers, address, path)
    for verifier in VERIFIERS:
        problems = [
            problem_of(verifier.check_head, head, NOON),
            problem_of(verifier.check_body, head, body, NOON),
        ]
        assert any(problems)
        assert problem_of(verifier.check, head, body, NOON) == next(filter(None, problems))
        for problem in problems:
            assert told_nothing(problem)
            assert problem.isprintable()


def problem_of(step: Callable[..., None], *arguments: object) -> str:
    """Why a step refuses, or nothing."""
    try:
        step(*arguments)
    except UnverifiedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", SIGNED)
@given(data=st.data())
@settings(max_examples=60)
def test_one_byte_that_is_changed_anywhere_spoils_the_delivery(
    name: str, data: st.DataObject
) -> None:
    checked = verification(METHODS[name])
    headers, _ = delivery(checked)
    what = data.draw(st.sampled_from(["body", *headers]))
    if what == "body":
        check(checked, presented(headers), BODY)
        at = data.draw(st.integers(0, len(BODY) - 1))
        flipped = BODY[at] ^ data.draw(st.integers(1, 255))
        assert refused(checked, presented(headers), BODY[:at] + bytes([flipped]) + BODY[at + 1 :])
        return
    value = headers[what].encode()
    at = data.draw(st.integers(0, len(value) - 1))
    flipped = value[at] ^ data.draw(st.integers(1, 255))
    text = (value[:at] + bytes([flipped]) + value[at + 1 :]).decode("utf-8", "surrogateescape")
    hexadecimal = checked.hmac is not None and checked.hmac.encoding == "hex"
    if what == "X-Signature" and hexadecimal and text.lower() == value.decode():
        # Hex means the same in either case; the names of Stripe's form do not.
        text = text.replace("T=", "x=").replace("V1=", "x=")
        if text.lower() == value.decode():
            return
    assert refused(checked, presented(headers | {what: text}))


@given(st.binary(max_size=300), st.sampled_from(SIGNED), st.datetimes(datetime(2001, 9, 9)))  # noqa: DTZ001
@settings(max_examples=150)
def test_what_is_signed_is_let_in_at_any_time(body: bytes, name: str, when: datetime) -> None:
    checked = verification(METHODS[name])
    now = when.replace(tzinfo=UTC)
    headers, _ = delivery(checked, body, now)
    check(checked, presented(headers), body, now)
    assert refused(checked, presented(headers), body + b"\0", now)


# No secret is told

OPEN = {"EMPTY", "SHORT", "BLANK", "HEX"}


def told_nothing(text: str) -> bool:
    """Whether a text is free of every secret, and of what is computed from it."""
    told = [value for name, value in VALUES.items() if name not in OPEN]
    told += [value.partition("_")[2] for value in told if value.startswith("wh")]
    told += [digest(key, BODY).hex() for key in ("KEY", "OLD_KEY")]
    return not any(value in text for value in told)


def shown(value: object) -> str:
    """All the ways in which a value shows itself."""
    pretty = io.StringIO()
    rich.pretty.pprint(value, console=rich.console.Console(file=pretty, width=500))
    return f"{value!r} {value} {pretty.getvalue()}"


@pytest.mark.parametrize("name", METHODS)
def test_nothing_shows_a_secret(name: str) -> None:
    checked = verification(METHODS[name])
    headers, path = delivery(checked)
    head = presented(headers, path)
    for value in (checked, Verifier(checked, secret), head):
        assert told_nothing(shown(value))
    problem = refused(
        verification(METHODS[name]),
        presented({key: f"{value}x" for key, value in headers.items()}, f"{path}x"),
    )
    assert told_nothing(problem)
    assert not any(value in problem for value in headers.values())


def test_settings_do_not_even_show_where_a_secret_is() -> None:
    """A secret may stand there by mistake."""
    for type_ in Hidden.__subclasses__():
        assert not {"__repr__", "__rich_repr__"} & vars(type_).keys()
    assert shown(Secret(env="hunter2")).count("hunter2") == 0
    assert repr(verification(METHODS["hmac full"])) == "Verification(...)"


def test_an_error_keeps_nothing_that_could_be_printed_later() -> None:
    checked = verification(METHODS["basic"])
    with pytest.raises(UnverifiedError) as caught:
        check(checked, presented({"Authorization": "Basic \udcff"}))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert caught.value.facts == {"problem": "the header Authorization holds no Basic credentials"}
    assert isinstance(caught.value, LoopledgerError)


# The page

SNIPPETS = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def always(value: str) -> Callable[[Secret], bytes]:
    """A reader that finds the same secret everywhere."""
    return lambda _: value.encode()


@pytest.mark.parametrize("toml", SNIPPETS, ids=lambda text: re.sub(r"\W+", "-", text)[:50])
def test_every_snippet_of_the_page_is_settings_that_work(tmp_path: Path, toml: str) -> None:
    file = tmp_path / "loopledger.toml"
    file.write_text(toml, "utf-8")
    found = load_settings({"LOOPLEDGER_CONFIG": str(file)}, {"loopz": Section, "fitbank": Section})
    for section in found.providers.values():
        assert isinstance(section, Section)
        checked = section.verification
        assert checked == Verification() or checked.configured
        Verifier(checked, always(VALUES["WHSEC" if checked.standard_webhooks else "PATH"]))


def test_the_page_shows_every_setting() -> None:
    shown_in = "\n".join(SNIPPETS)
    for type_ in Hidden.__subclasses__():
        for name in type_.__struct_fields__:
            assert re.search(rf"\b{name}\b", shown_in), name
