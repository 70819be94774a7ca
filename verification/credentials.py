"""Credentials that a delivery carries in its head: a secret in its path, user and password, a token."""

import binascii
import contextlib
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from verification.delivery import Delivery
from verification.keyring import (
    FEWEST_SECRET_BYTES,
    Keyring,
    MalformedSecretError,
    Reader,
    Redacted,
    Secret,
    Secrets,
    UnverifiedError,
    long_enough,
    refuse,
)

AUTHORIZATION = "Authorization"

# The most characters that a header with a credential or a signature may have.
MOST_HEADER = 4096

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_PATH_SECRET = re.compile(rb"[A-Za-z0-9._~-]+")
_VISIBLE = re.compile(rb"[\x21-\x7e]+")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*")


class BasicUser(Redacted, frozen=True, kw_only=True):
    """A user who may deliver (RFC 7617); the password is taken as UTF-8."""

    user: str
    password: Secret

    def __post_init__(self) -> None:
        if ":" in self.user or not self.user.isprintable():
            refuse("`user` must be printable text without a colon")


class Tokens(Redacted, frozen=True, kw_only=True):
    """A token in a header: after `scheme` and one blank, or alone when `scheme` is "".

    When not set, the scheme is "Bearer" in the header Authorization, and none elsewhere.
    """

    secrets: Secrets
    header: str = AUTHORIZATION
    scheme: str | None = None

    def __post_init__(self) -> None:
        check_header_name(self.header)
        if self.scheme and not _SCHEME.fullmatch(self.scheme):
            refuse("`scheme` must be one word")

    @property
    def prefix(self) -> str:
        """What comes before the token; it is matched without case."""
        usual = "Bearer" if self.header.lower() == AUTHORIZATION.lower() else ""
        scheme = usual if self.scheme is None else self.scheme
        return f"{scheme} " if scheme else ""


class PathCheck:
    """Checks the secret in the path."""

    def __init__(self, secrets: Iterable[Secret], read: Reader, key: str) -> None:
        entries = [
            (f"{key}[{number}]", secret, path_secret) for number, secret in enumerate(secrets)
        ]
        self._accepted = Keyring(_hashed(entries), read, "path secret")

    def check(self, delivery: Delivery, moment: float) -> None:
        """Raise UnverifiedError unless it is one of those valid at that moment."""
        given = delivery.path_secret
        if not given:
            raise UnverifiedError(problem="the secret is missing from the path")
        if not _matches(given, self._accepted.valid_at(moment)):
            raise UnverifiedError(problem="the secret in the path is wrong")


class BasicCheck:
    """Checks user and password."""

    def __init__(self, users: Iterable[BasicUser], read: Reader, key: str) -> None:
        entries = [
            (f"{key}[{number}].password", user.password, pair_of(user.user))
            for number, user in enumerate(users)
        ]
        self._accepted = Keyring(_hashed(entries), read, "password")

    def check(self, delivery: Delivery, moment: float) -> None:
        """Raise UnverifiedError unless it is one of those valid at that moment."""
        scheme, _, encoded = single(delivery.headers, AUTHORIZATION).partition(" ")
        pair = b""
        if scheme.lower() == "basic":
            # Malformed credentials leave the pair empty, so without a colon.
            with contextlib.suppress(ValueError):
                pair = binascii.a2b_base64(encoded, strict_mode=True)
        if b":" not in pair:
            raise UnverifiedError(problem=f"the header {AUTHORIZATION} holds no Basic credentials")
        if not _matches(pair, self._accepted.valid_at(moment)):
            raise UnverifiedError(problem="the user or the password is wrong")


class TokenCheck:
    """Checks the token."""

    def __init__(self, tokens: Tokens, read: Reader, key: str) -> None:
        self._header = tokens.header
        self._prefix = tokens.prefix.lower()
        entries = [
            (f"{key}.secrets[{number}]", secret, token)
            for number, secret in enumerate(tokens.secrets)
        ]
        self._accepted = Keyring(_hashed(entries), read, "token")

    def check(self, delivery: Delivery, moment: float) -> None:
        """Raise UnverifiedError unless it is one of those valid at that moment."""
        value = single(delivery.headers, self._header)
        size = len(self._prefix)
        if value[:size].lower() != self._prefix:
            raise UnverifiedError(
                problem=f"the header {self._header} is not of the scheme {self._prefix.strip()}"
            )
        if not _matches(value[size:], self._accepted.valid_at(moment)):
            raise UnverifiedError(problem=f"the token in {self._header} is wrong")


def path_secret(value: bytes) -> bytes:
    """A secret for the path: letters, digits and `-._~`. Raises MalformedSecretError."""
    if len(value) < FEWEST_SECRET_BYTES or not _PATH_SECRET.fullmatch(value):
        message = f"must be {FEWEST_SECRET_BYTES} or more of letters, digits, '-', '.', '_' and '~'"
        raise MalformedSecretError(message)
    return value


def token(value: bytes) -> bytes:
    """A token: visible ASCII. Raises MalformedSecretError."""
    if not _VISIBLE.fullmatch(value):
        message = "must be visible ASCII, without blanks"
        raise MalformedSecretError(message)
    return long_enough(value)


def pair_of(user: str) -> Callable[[bytes], bytes]:
    """A function that makes `user:password` of a password; it raises MalformedSecretError."""

    def pair(value: bytes) -> bytes:
        if _CONTROL.search(value):
            message = "holds control characters"
            raise MalformedSecretError(message)
        return user.encode() + b":" + long_enough(value)

    return pair


def _hashed(
    entries: Iterable[tuple[str, Secret, Callable[[bytes], bytes]]],
) -> Iterable[tuple[str, Secret, Callable[[bytes], bytes]]]:
    """Keep hashes only: all have one length, so that comparing them does not reveal the length of a secret."""

    def hashed(prepare: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda value: hashlib.sha256(prepare(value)).digest()

    return [(key, secret, hashed(prepare)) for key, secret, prepare in entries]


def _matches(given: str | bytes, accepted: Iterable[bytes]) -> bool:
    """Compare with every secret: how long it takes does not depend on which one matches."""
    raw = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given
    digest = hashlib.sha256(raw).digest()
    return sum(hmac.compare_digest(digest, expected) for expected in accepted) > 0


def single(headers: Mapping[str, str], name: str) -> str:
    """The one value of a header. Raises UnverifiedError when it is missing, repeated, empty or too long."""
    getall: Any = getattr(headers, "getall", None)
    if getall is None:
        value = headers.get(name)
    else:
        values: Sequence[str] = getall(name, ())
        if len(values) > 1:
            raise UnverifiedError(problem=f"the header {name} is repeated")
        value = values[0] if values else None
    if value is None:
        raise UnverifiedError(problem=f"the header {name} is missing")
    if not value or len(value) > MOST_HEADER:
        malformed(name)
    return value


def check_header_name(name: str) -> None:
    """Raise ValueError unless `name` can name a header (RFC 9110, 5.1)."""
    if not _HEADER_NAME.fullmatch(name):
        refuse("not the name of a header")


def malformed(name: str) -> NoReturn:
    """Raise UnverifiedError for a header."""
    raise UnverifiedError(problem=f"the header {name} is malformed")
