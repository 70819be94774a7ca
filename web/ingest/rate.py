"""Rate limits by address: a token bucket each, for the addresses seen last."""

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
        """Admit a request of `address`: 0, or how many seconds it should wait."""
        tokens, seen = self._buckets.pop(address, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - seen) * self._rate)
        admitted = tokens >= 1
        if len(self._buckets) >= self._most:
            # The address that was silent longest comes first: every other was put back since.
            del self._buckets[next(iter(self._buckets))]
        self._buckets[address] = (tokens - 1 if admitted else tokens, now)
        return 0.0 if admitted else (1 - tokens) / self._rate


def rate_key(address: str) -> str:
    """What an address is counted under: it without a port; of IPv6 its /64 network, as a customer has a whole one."""
    found = address_of(address)
    if isinstance(found, IPv6Address):
        return f"{int(found) >> 64:x}"
    return str(found or address)
