"""Rate limits by address: token buckets for the addresses seen last."""

from collections import OrderedDict
from ipaddress import IPv6Address

from eventstore.limits import Limits
from verification.verifier import address_of


class RateLimiter:
    """Token buckets by address: `burst` at once, `rate` a second. Times are seconds of a clock that never goes back."""

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        # Tokens, and when they were counted. The address that was silent longest comes first.
        self._buckets: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, address: object) -> bool:
        return address in self._buckets

    def admit(self, address: str, now: float, cost: float = 1) -> float:
        """Admit a request of `address`: 0, or how many seconds it should wait."""
        buckets = self._buckets
        if (bucket := buckets.get(address)) is not None:
            buckets.move_to_end(address)
            tokens, seen = bucket
            tokens = min(self._burst, tokens + (now - seen) * self._rate)
        else:
            if len(buckets) >= self._most:
                buckets.popitem(last=False)
            tokens = self._burst
            buckets[address] = bucket = [tokens, now]
        bucket[1] = now
        if tokens >= cost:
            bucket[0] = tokens - cost
            return 0.0
        bucket[0] = tokens
        return (cost - tokens) / self._rate

    def is_exhausted(self, address: str, now: float) -> bool:
        """Whether a request of `address` would have to wait."""
        if (bucket := self._buckets.get(address)) is None:
            return False
        tokens, seen = bucket
        return tokens + (now - seen) * self._rate < 1


class AddressMeters:
    """How much each address sends: what was verified, and, apart from that, what was not."""

    def __init__(self, limits: Limits) -> None:
        most = limits.addresses_remembered
        self.verified = RateLimiter(
            limits.address_requests_per_second, limits.address_requests_at_once, most
        )
        self.failed = RateLimiter(
            limits.address_failures_per_second, limits.address_failures_at_once, most
        )
        # One bucket, of bytes, for all addresses.
        rate = limits.suspect_signature_bytes_per_second
        self._signatures = RateLimiter(rate, max(rate, 2 * limits.body_bytes), 1)

    def admit_signature(self, address: str, size: int, now: float) -> float:
        """Admit the computation of a signature of `size` bytes: of an address that failed too often, within a limit."""
        if self.failed and self.failed.is_exhausted(address, now):
            return self._signatures.admit("", now, size)
        return 0.0


def rate_key(address: str) -> str:
    """What an address is counted under: it without a port; of IPv6 its /64 network, as a customer has a whole one."""
    found = address_of(address)
    if isinstance(found, IPv6Address):
        return f"{int(found) >> 64:x}"
    return str(found or address)
