"""Credentials in the head: a secret in the path, user and password, a token."""

import pytest

from tests.support.verifying import (
    METHODS,
    basic,
    check,
    delivery_with,
    refused,
    verification,
)


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
    assert "path" in refused(verification(METHODS["path"]), delivery_with(path=path))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (basic("loopz:pass:wörd-01234567890"), None),
        (basic("loopz:pass:wörd-01234567890").replace("Basic", "bASIC"), None),
        (basic("loopz:pass:word-01234567890"), "user or the password"),
        (basic("Loopz:pass:wörd-01234567890"), "user or the password"),
        (basic("loopz:"), "user or the password"),
        (basic("loopz"), "no Basic credentials"),
        (basic(""), "no Basic credentials"),
        (basic("loopz:pass:wörd-01234567890").rstrip("="), "no Basic credentials"),
        (basic("loopz:pass:wörd-01234567890").replace(" ", "  "), "no Basic credentials"),
        (basic("loopz:pass:wörd-01234567890") + " ", "no Basic credentials"),
        ("Basic", "no Basic credentials"),
        ("Basic loopz:pass", "no Basic credentials"),
        ("Basic \udcff\0é", "no Basic credentials"),
        ("Bearer token-0123456789", "no Basic credentials"),
        (basic("loopz:pass:wörd-01234567890").replace("Basic", "Bearer"), "no Basic credentials"),
        ("", "malformed"),
        ("Basic " + "A" * 10_000, "malformed"),
    ],
)
def test_basic_credentials(value: str, problem: str | None) -> None:
    checked = verification(METHODS["basic"])
    head = delivery_with({"Authorization": value})
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
    head = delivery_with({checked.tokens.header: value})
    if problem is None:
        check(checked, head)
    else:
        assert problem in refused(checked, head)
