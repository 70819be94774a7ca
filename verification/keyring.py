"""Secrets: where they are, when they are valid, and how they are kept out of sight."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Annotated, Generic, NoReturn, TypeVar

import msgspec

from eventstore.errors import LoopledgerError, SettingsError

K = TypeVar("K")

# From when until when, in seconds since 1970, a secret without bounds is valid.
ALWAYS = (float("-inf"), float("inf"))

# Of a secret, so that nobody can try them all: signatures of a shorter one can be tried without asking anybody.
FEWEST_SECRET_BYTES = 16

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UnverifiedError(LoopledgerError):
    """The delivery is not verified: {problem}."""


class MalformedSecretError(Exception):
    """A secret cannot be read or used; the text says why, without the secret."""


class Redacted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings without a repr: they say where a secret is, and sometimes, by mistake, hold the secret itself."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Secret(Redacted, frozen=True, kw_only=True):
    """Where a secret is, never the secret itself: `env`, a variable's name, or `file`, a path; exactly one.

    Valid from `not_before` until just before `not_after` (RFC 3339, with an offset); without them, always. One line
    end at the end of the value does not belong to it.
    """

    env: str | None = None
    file: str | None = None
    not_before: Moment | None = None
    not_after: Moment | None = None

    def __post_init__(self) -> None:
        if bool(self.env) == bool(self.file):
            refuse("needs either `env` or `file`")
        if self.env and not _VARIABLE.fullmatch(self.env):
            refuse("`env` is not the name of an environment variable")
        if self.not_before and self.not_after and self.not_before >= self.not_after:
            refuse("`not_before` must be earlier than `not_after`")

    @property
    def source(self) -> str:
        """Where it is, for people."""
        return f"environment, {self.env}" if self.env else f"{self.file}"


Secrets = Annotated[tuple[Secret, ...], msgspec.Meta(min_length=1)]
Reader = Callable[[Secret], bytes]


class Keyring(Generic[K]):
    """The secrets of one method, read and made ready for use, each with the time in which it is valid."""

    def __init__(
        self, secrets: Iterable[tuple[str, Secret, Callable[[bytes], K]]], read: Reader, what: str
    ) -> None:
        """Read the secrets; each comes with its key in the settings. Raises SettingsError.

        `read` raises MalformedSecretError if there is none.
        """
        self._keys: list[tuple[K, float, float]] = []
        self._problem = f"no {what} is valid now: see its `not_before` and `not_after`"
        for key, secret, prepare in secrets:
            try:
                value = read(secret).removesuffix(b"\n").removesuffix(b"\r")
                if not value:
                    message = "is empty"
                    raise MalformedSecretError(message)  # noqa: TRY301 - as those of `read` and `prepare`
                prepared = prepare(value)
            except MalformedSecretError as error:
                raise SettingsError(key=key, problem=str(error), source=secret.source) from None
            start = secret.not_before.timestamp() if secret.not_before else ALWAYS[0]
            end = secret.not_after.timestamp() if secret.not_after else ALWAYS[1]
            self._keys.append((prepared, start, end))
        # The usual case, made ready once: no secret has bounds.
        always = all((start, end) == ALWAYS for _, start, end in self._keys)
        self._always = [key for key, _, _ in self._keys] if always else []

    def __iter__(self) -> Iterator[K]:
        """Every secret, valid now or not."""
        return (key for key, _, _ in self._keys)

    def valid_at(self, moment: float) -> list[K]:
        """The secrets valid at a moment, in seconds since 1970. Raises UnverifiedError when there is none."""
        found = self._always or [key for key, start, end in self._keys if start <= moment < end]
        if not found:
            raise UnverifiedError(problem=self._problem)
        return found


def long_enough(value: bytes) -> bytes:
    """Give back a secret, as it is used. Raises MalformedSecretError if it is too short to be one."""
    if len(value) < FEWEST_SECRET_BYTES:
        message = (
            f"is shorter than {FEWEST_SECRET_BYTES} bytes, so it could be found by trying; "
            "docs/verification.md tells how to make one"
        )
        raise MalformedSecretError(message)
    return value


def refuse(problem: str) -> NoReturn:
    """Refuse a setting, in a `__post_init__`: msgspec adds its place in the settings. Raises ValueError."""
    raise ValueError(problem)
