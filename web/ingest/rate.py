"""How many requests an address may send: a token bucket each, for as many addresses as are remembered."""

from ipaddress import IPv6Address

from eventstore.limits import Limits
from verification.verifier import address_of


class RateLimiter:
    """Token buckets by address. Times are seconds of any clock that does not go back."""

    def __init__(self, limits: Limits) -> None:
        self._rate = limits.address_requests_per_second
        self._burst = limits.address_requests_at_once
        self._most = limits.addresses_remembered
        self._buckets: dict[str, tuple[float, float]] = {}

    def admit(self, address: str, now: float) -> float:
        """Let a request of `address` in; or give back how many seconds it should wait."""
        tokens, seen = self._buckets.pop(address, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - seen) * self._rate)
        admitted = tokens >= 1
        if len(self._buckets) >= self._most:
            # The address that was silent longest: popped and put back, the dict is in that order.
            del self._buckets[next(iter(self._buckets))]
        self._buckets[address] = (tokens - 1 if admitted else tokens, now)
        return 0.0 if admitted else (1 - tokens) / self._rate


def rate_key(address: str) -> str:
    """What an address counts as: without its port, and of IPv6 the network, since every customer has a whole one."""
    found = address_of(address)
    if isinstance(found, IPv6Address):
        return f"{int(found) >> 64:x}"
    return str(found or address)
