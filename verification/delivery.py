"""The delivery: one HTTP request of a provider, as far as it has arrived."""

from collections.abc import Mapping
from datetime import datetime

import msgspec


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One HTTP request of a provider.

    `provider` and `path_secret` are the parts of its path, `address` is its peer's. Names in `headers` match without
    case; where `headers` have `getall`, a repeated one is noticed. `raw_headers` are the same as they were sent.
    `received_at` (aware) is when the head was complete, `since` the same by `time.perf_counter`. `body` stays empty
    until it has been read. `verified` is set once all that is configured has held, but for the tenant.

    The garbage collector need not look at it: nothing that it holds refers to it.
    """

    provider: str
    path_secret: str | None
    address: str
    headers: Mapping[str, str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    received_at: datetime
    body: bytes = b""
    since: float = 0.0
    verified: bool = False

    def __repr__(self) -> str:
        # Its headers and its path may hold credentials, its body the code of a gift card.
        return "Delivery(...)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []
