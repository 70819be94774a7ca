"""Addresses: networks that deliveries may come from, directly or behind proxies."""

import pytest
from multidict import CIMultiDict

from tests.support.verifying import (
    check,
    delivery_with,
    refused,
    verification,
)


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
        check(checked, delivery_with(address=address))
    else:
        assert "address" in refused(checked, delivery_with(address=address))


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
    head = delivery_with(headers)
    if accepted:
        check(checked, head)
    else:
        assert "address" in refused(checked, head)


def test_without_trusted_proxies_nobody_says_his_own_address() -> None:
    checked = verification({"addresses": ["192.0.2.0/24"]})
    head = delivery_with({"X-Forwarded-For": "192.0.2.1"}, address="198.51.100.9")
    assert "not in `addresses`" in refused(checked, head)
