"""Rotation: several secrets at once, each valid for its time."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from tests.support import NOON
from tests.support.verifying import (
    METHODS,
    PLAIN,
    SECOND,
    check,
    delivery_with,
    refused,
    signed,
    verification,
)

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
        check(both, delivery_with(*signed(signer)))
    assert refused(new, delivery_with(*signed(old)))
    assert refused(old, delivery_with(*signed(new)))


@pytest.mark.parametrize("name", [*ROTATED, "basic"])
def test_a_secret_is_in_force_from_not_before_until_just_before_not_after(name: str) -> None:
    window = {"not_before": NOON - SECOND, "not_after": (NOON + SECOND).isoformat()}
    always = METHODS[name]
    if name == "basic":
        bound: Any = {"basic": [{"user": "loopz", "password": {"env": "PASSWORD"} | window}]}
    else:
        bound = with_secrets(always, lambda secrets: [secrets[0] | window])
    head = delivery_with(*signed(verification(always)))
    checked = verification(bound)
    for now in (NOON - SECOND, NOON, NOON + SECOND - timedelta(microseconds=1)):
        check(checked, head, now=now)
    for now in (NOON - SECOND - timedelta(microseconds=1), NOON + SECOND):
        assert "valid now" in refused(checked, head, now=now)
