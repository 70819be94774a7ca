"""What is configured must hold, and whatever comes, nothing else than an UnverifiedError is raised."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.support.verifying import (
    BODY,
    METHODS,
    SIGNED,
    check,
    delivery_with,
    refused,
    secret,
    signed,
    told_nothing,
    verification,
    verify,
)
from verification.verifier import UnverifiedError, Verifier

# What is configured


def test_nothing_configured_is_nothing_checked() -> None:
    checked = verification()
    check(checked, delivery_with({"Authorization": "?"}, path="x", address=""))
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
    headers, path = signed(checked)
    assert checked.configured
    assert Verifier(checked, secret).configured
    check(checked, delivery_with(headers, path))
    # Names of headers have no case, and other headers do not matter.
    check(checked, delivery_with({key.upper(): headers[key] for key in headers} | {"X": ""}, path))
    with pytest.raises(UnverifiedError):
        Verifier(checked, secret).check_head(delivery_with())


@given(st.sets(st.sampled_from(sorted(METHODS)), min_size=1))
@settings(max_examples=100)
def test_of_several_methods_every_one_must_hold(names: set[str]) -> None:
    specs = [METHODS[name] for name in sorted(names)]
    try:
        checked = verification(*specs)
    except msgspec.ValidationError as error:
        assert "cannot both be in the header Authorization" in str(error)  # noqa: PT017 - or no error at all
        return
    headers, path = signed(checked)
    check(checked, delivery_with(headers, path))
    for left_out in headers:
        check_fails = delivery_with({key: headers[key] for key in headers if key != left_out}, path)
        assert refused(checked, check_fails)
    if path:
        assert refused(checked, delivery_with(headers)) == "the secret is missing from the path"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "path"])
def test_a_repeated_header_is_refused(name: str) -> None:
    checked = verification(METHODS[name])
    headers, _ = signed(checked)
    for repeated, value in headers.items():
        both = CIMultiDict(headers)
        both.add(repeated.lower(), value)
        problem = refused(checked, delivery_with(both))
        assert problem == f"the header {repeated} is repeated"


def test_headers_of_a_plain_mapping_are_read_too() -> None:
    checked = verification(METHODS["hmac"])
    headers, _ = signed(checked)
    plain = msgspec.structs.replace(delivery_with(), headers=headers)
    check(checked, plain)
    bare = msgspec.structs.replace(plain, headers={})
    assert refused(checked, bare) == "the header X-Signature is missing"


def test_the_log_is_told_which_headers_are_credentials() -> None:
    both = verification(METHODS["basic"], METHODS["token"])
    assert Verifier(both, secret).credential_headers == {b"authorization", b"x-token"}
    assert Verifier(verification(METHODS["standard"]), secret).credential_headers == set()


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
        with pytest.raises(UnverifiedError, match=r"is not one of `[a-z]+_ids` in the settings"):
            verifier.check_tenant(*tenant)


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
    head = delivery_with(headers, path, address)
    for verifier in VERIFIERS:
        delivery = msgspec.structs.replace(head, body=body)
        with pytest.raises(UnverifiedError) as caught:
            verify(verifier, delivery)
        assert told_nothing(str(caught.value))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", SIGNED)
@given(data=st.data())
@settings(max_examples=60)
def test_one_byte_that_is_changed_anywhere_spoils_the_delivery(
    name: str, data: st.DataObject
) -> None:
    checked = verification(METHODS[name])
    headers, _ = signed(checked)
    what = data.draw(st.sampled_from(["body", *headers]))
    if what == "body":
        check(checked, delivery_with(headers), BODY)
        at = data.draw(st.integers(0, len(BODY) - 1))
        flipped = BODY[at] ^ data.draw(st.integers(1, 255))
        assert refused(
            checked, delivery_with(headers), BODY[:at] + bytes([flipped]) + BODY[at + 1 :]
        )
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
    assert refused(checked, delivery_with(headers | {what: text}))


@given(st.binary(max_size=300), st.sampled_from(SIGNED), st.datetimes(datetime(2001, 9, 9)))  # noqa: DTZ001
@settings(max_examples=150)
def test_what_is_signed_is_let_in_at_any_time(body: bytes, name: str, when: datetime) -> None:
    checked = verification(METHODS[name])
    now = when.replace(tzinfo=UTC)
    headers, _ = signed(checked, body, now)
    check(checked, delivery_with(headers), body, now)
    assert refused(checked, delivery_with(headers), body + b"\0", now)
