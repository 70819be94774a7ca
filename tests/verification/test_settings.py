"""Settings that cannot work, and secrets that cannot be used, are refused at the start."""

from typing import Any

import msgspec
import pytest

from eventstore.errors import SettingsError
from tests.support import NOON
from tests.support.verifying import (
    METHODS,
    PLAIN,
    TIMED,
    TOKENS,
    secret,
    told_nothing,
    verification,
)
from verification.verifier import Verifier


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
        *(
            ({"hmac": TIMED | {"template": template, "id_header": "X-Id"}}, "text between {id}")
            for template in (
                "{timestamp}.{id}{body}",
                "{id}{timestamp}.{body}",
                "{body}{id}.{timestamp}",
            )
        ),
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
        ({"addresses": ["192.0.2.1/24"]}, "must hold networks"),
        ({"addresses": ["example.com"]}, "must hold networks"),
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
        (
            {"hmac": PLAIN | {"secrets": [{"env": "SHORT"}]}},
            r"secrets\[0\] is shorter than 16 bytes",
        ),
        (
            {"hmac": PLAIN | {"secrets": [{"env": "SHORT_HEX"}], "secret_encoding": "hex"}},
            "shorter than 16 bytes",
        ),
        ({"tokens": TOKENS | {"secrets": [{"env": "SHORT"}]}}, "shorter than 16 bytes"),
        (
            {"basic": [{"user": "u" * 20, "password": {"env": "SHORT"}}]},
            "password is shorter than 16 bytes",
        ),
        ({"standard_webhooks": {"secrets": [{"env": "SHORT_WHSEC"}]}}, "shorter than 16 bytes"),
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
