"""Who may use the API: whoever sends a key (RFC 6750); without any, this machine, until the first key is made."""

import hmac
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import hdrs, web

from eventstore.keys import KeyRing, Keys, digest_of, is_well_formed
from eventstore.limits import Limits
from web.access import LOCAL, WITHOUT_KEY, Access, Scope, access_of
from web.errors import (
    BoundKeyError,
    InsufficientScopeError,
    InvalidKeyError,
    KeyTooBusyError,
    MalformedHeaderError,
    MissingKeyError,
    TooManyError,
)
from web.ingest.rate import RateLimiter, rate_key
from web.locality import is_from_here

logger = structlog.get_logger()

# The paths that are open to everybody: those that a load balancer uses.
OPEN_PATHS = web.AppKey("open_paths", frozenset[str])

# Those that are answered while Postgres is away.
OUTAGE_PATHS = web.AppKey("outage_paths", frozenset[str])

# Who makes a request, once that is checked.
ACCESS = web.RequestKey("access", Access)

REALM = 'Bearer realm="loopledger"'

# How much of a path a line of the log repeats, in characters.
PATH_REPEATED = 200


class LocalKey(msgspec.Struct, frozen=True):
    """The key of the commands of this machine, by its SHA-256, and what it allows."""

    digest: bytes
    access: Access = LOCAL


class Authenticator:
    """Says who makes a request. `keyless`: whoever sends no key may read, wherever they are."""

    def __init__(
        self, keys: Keys, limits: Limits, *, local: LocalKey | None, keyless: bool
    ) -> None:
        self._keys = keys
        self._local = local
        self._keyless = keyless
        self._sent = RateLimiter(
            limits.key_requests_per_second, limits.key_requests_at_once, limits.keys_kept + 1
        )
        self._failed = RateLimiter(
            limits.key_failures_per_second,
            limits.key_failures_at_once,
            limits.addresses_remembered,
        )

    async def authenticate(self, request: web.BaseRequest, *, in_outages: bool = False) -> Access:
        """Who makes a request. `in_outages`: it is answered without Postgres too, by the keys that were known last.

        Raises MissingKeyError, InvalidKeyError, MalformedHeaderError, KeyTooBusyError, TooManyError.
        """
        key = _key_of(request)
        read = self._keys.last_ring if in_outages else self._keys.ring
        if key is None:
            if self._keyless or (is_from_here(request) and not (await read()).any):
                return WITHOUT_KEY
            raise MissingKeyError
        now = time.monotonic()
        try:
            access = await self._access_of(key, read)
        except InvalidKeyError:
            if wait := self._failed.admit(rate_key(request.remote or ""), now):
                raise TooManyError(seconds=max(1, round(wait))) from None
            raise
        if wait := self._sent.admit(str(access.key_id), now):
            raise KeyTooBusyError(seconds=max(1, round(wait)))
        return access

    async def is_in_force(self, access: Access) -> bool:
        """Say whether an access still counts, for what goes on after its request was answered.

        Its key may have expired or been revoked; or it had none, and there is one now.
        """
        if access.key_id == LOCAL.key_id:
            return True
        ring = await self._keys.ring()
        if access.key_id is None:
            return self._keyless or not ring.any
        return access.key_id in ring.ids

    async def _access_of(self, key: str, read: Callable[[], Awaitable[KeyRing]]) -> Access:
        if not is_well_formed(key):
            raise InvalidKeyError(
                problem="is none: its checksum does not fit; see that it was copied whole"
            )
        digest = digest_of(key)
        if self._local is not None and hmac.compare_digest(digest, self._local.digest):
            return self._local.access
        ring = await read()
        if digest not in ring.in_force:
            # It may have been made a moment ago, in another process.
            ring = await self._keys.newest_ring()
        if (found := ring.in_force.get(digest)) is not None:
            return access_of(found)
        if (found := ring.expired.get(digest)) is not None:
            raise InvalidKeyError(problem=f"expired at {found.expires_at:%Y-%m-%dT%H:%M:%SZ}")
        raise InvalidKeyError(problem="is not known here, or was revoked")


def require(access: Access, scope: Scope, *, whole_store: bool) -> None:
    """See that a caller may do what needs this scope; `whole_store`: it is not for a key of some merchants.

    Raises MissingKeyError, InsufficientScopeError.
    """
    if scope not in access.scopes:
        if access.key_id is None:
            raise MissingKeyError(scope=scope)
        raise InsufficientScopeError(scope=scope)
    if whole_store and access.visibility.merchants is not None:
        raise BoundKeyError(scope=scope)


def log_secrets_read(access: Access, scope: Scope, request: web.BaseRequest) -> None:
    """Say in the log who reads what is otherwise masked, or exact bytes."""
    if scope == "raw" or (access.visibility.revealed and scope in {"read", "find"}):
        logger.info(
            "secrets_read",
            message="Exact bytes, or states without masks, were asked for.",
            key=access.name,
            key_id=access.key_id,
            method=request.method,
            path=request.rel_url.raw_path[:PATH_REPEATED],
        )


def challenge_of(error: Exception) -> str | None:
    """The WWW-Authenticate of an error (RFC 6750, 3): None if it is not about a key."""
    match error:
        case MissingKeyError():
            scope = error.facts.get("scope")
            return f'{REALM}, scope="{scope}"' if scope else REALM
        case InvalidKeyError():
            return f'{REALM}, error="invalid_token", error_description="{error}"'
        case InsufficientScopeError():
            return f'{REALM}, error="insufficient_scope", scope="{error.facts["scope"]}"'
    return None


def _key_of(request: web.BaseRequest) -> str | None:
    """The key that a request brings, if it brings one. Raises MalformedHeaderError."""
    given = request.headers.getall(hdrs.AUTHORIZATION, ())
    if len(given) > 1:
        raise MalformedHeaderError(header="Authorization")
    if not given:
        return None
    scheme, _, key = given[0].strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    key = key.strip()
    if not key or " " in key:
        raise MalformedHeaderError(header="Authorization")
    return key
