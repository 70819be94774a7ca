"""How often a search by a secret may find nothing: whoever tries numbers out finds nothing mostly."""

import math
import time

import structlog

from eventstore.limits import Limits
from web.access import Access
from web.errors import TooManyMissesError
from web.ingest.rate import RateLimiter

logger = structlog.get_logger()

# All keys together have so many times what one has.
SHARES = 10

_ALL = "all"


class Misses:
    """Counts the searches of each key that find nothing, and of all keys together."""

    def __init__(self, limits: Limits) -> None:
        rate, burst = limits.find_misses_per_second, limits.find_misses_at_once
        self._by_key = RateLimiter(rate, burst, limits.keys_kept + 1)
        self._of_all = RateLimiter(SHARES * rate, SHARES * burst, 1)

    def begin(self, access: Access) -> None:
        """Count a search as one that finds nothing, before it is made. Raises TooManyMissesError."""
        now = time.monotonic()
        wait = self._by_key.admit(str(access.key_id), now)
        if not wait and (wait := self._of_all.admit(_ALL, now)):
            self._by_key.admit(str(access.key_id), now, cost=-1)
        if wait:
            raise TooManyMissesError(seconds=math.ceil(wait))

    def end(self, access: Access, projection: str, field: str, *, found: bool) -> None:
        """Take that back if something was found; else log it, without what was searched for."""
        if found:
            now = time.monotonic()
            self._by_key.admit(str(access.key_id), now, cost=-1)
            self._of_all.admit(_ALL, now, cost=-1)
            return
        logger.warning(
            "secret_not_found",
            message="Nothing has the secret that a key searched by.",
            key=access.name,
            projection=projection,
            field=field,
        )
