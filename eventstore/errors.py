"""What can go wrong, each with its facts.

The docstring of an error is its message; the keyword arguments are its facts, and fill the message in.
"""

import asyncio
import traceback
from pathlib import Path
from typing import ClassVar

import asyncpg
import msgspec


class LoopledgerError(Exception):
    """Loopledger failed."""

    # The docstring, taken at class creation: `python -OO` strips docstrings, never a message.
    message: ClassVar[str]

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        super().__init__(self.message.format(**facts))

    def __init_subclass__(cls) -> None:
        cls.message = " ".join((cls.__doc__ or cls.__name__).split())


class SettingsError(LoopledgerError):
    """{key} {problem} (from {source})."""


class ExposedError(LoopledgerError):
    """Refusing to listen on {host}: whoever reaches it could write to the log, since deliveries of {providers} are not
    verified. Set up verification (docs/verification.md), listen on 127.0.0.1, or start with --insecure
    (LOOPLEDGER_INSECURE=true) behind a protection of your own.
    """  # noqa: D205 - one message


class PostgresError(LoopledgerError):
    """Postgres could not be used: {problem}. {remedy}"""  # noqa: D400 - the remedy ends it


class LogCorruptedError(LoopledgerError):
    """The log contradicts itself: {problem}. Nothing was changed; restore from a backup or ask."""


class QueueFullError(LoopledgerError):
    """The append queue is full: {deliveries} deliveries, {size} bytes are waiting."""


class UnavailableError(LoopledgerError):
    """The log cannot be written at the moment: {problem}. Nothing was acknowledged; send it again."""


class RefusedError(LoopledgerError):
    """The database refuses this delivery: {problem}."""


class NotFoldedError(LoopledgerError):
    """{projection} has folded up to position {checkpoint}, not yet up to {position}."""


class UnstorableError(LoopledgerError):
    """{field} {problem}."""


class SystematicError(LoopledgerError):
    """{projection} stopped at position {checkpoint}: of the events that concern it, {count} in a row could not be
    folded, the last because of: {error}. This looks like a fault of the code or of the settings, not of single events.
    Mend it, restart, and rebuild for those in quarantine already; or, if they belong there, raise
    LOOPLEDGER_LIMITS_FAILURES_IN_A_ROW.
    """  # noqa: D205 - one message


class NotSwitchedError(LoopledgerError):
    """Generation {generation} of {projection} was not made live: {problem}"""  # noqa: D400 - the problem ends it


class RebuildingError(LoopledgerError):
    """A rebuild of {projection} is under way: generation {generation} is {status}. Promote or discard it first."""


class NotReadyError(LoopledgerError):
    """There is no generation of {projection} that is ready to be promoted."""


class NothingRetiredError(LoopledgerError):
    """No other generation of {projection} was live before that could be made live again."""


class FencedError(LoopledgerError):
    """Another projector has moved {projection} on from checkpoint {checkpoint}."""


class IncompleteReadError(LoopledgerError):
    """Reading from position {after} to {through}, {count} events came, and those left out do not make up the rest."""


class IncompleteError(LoopledgerError):
    """{projection} is incomplete: folded + ignored + quarantined would not be its checkpoint."""


def raise_if_cancelled() -> None:
    """Go on being cancelled, if this task is.

    For every `except Exception` that carries on: where a connection dies while its caller is cancelled, the driver's
    error takes the place of CancelledError, and the task would live on.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def is_outage(error: BaseException) -> bool:
    """Say whether `error` means that Postgres is away or going away, so that trying again helps.

    asyncpg shows a dying server in many ways; InternalClientError is one of them (its protocol state is
    cut off half-way through a message).
    """
    return isinstance(
        error,
        OSError
        | asyncio.TimeoutError
        | asyncpg.InterfaceError
        | asyncpg.InternalClientError
        | asyncpg.PostgresConnectionError
        | asyncpg.OperatorInterventionError
        | asyncpg.InsufficientResourcesError
        | asyncpg.ReadOnlySQLTransactionError
        | asyncpg.DeadlockDetectedError,
    ) and not isinstance(error, asyncpg.DataError)


def is_transient(error: BaseException) -> bool:
    """Say whether `error` is an outage that ends by itself: a full disk or a statement that takes too long does not."""
    return is_outage(error) and not isinstance(
        error, asyncpg.DiskFullError | asyncpg.QueryCanceledError
    )


def is_poison(error: BaseException) -> bool:
    """Say whether `error` is about the values sent: the same values will fail again, others may not."""
    return isinstance(
        error,
        asyncpg.DataError
        # Of the constraints only this one: the others fail by our own fault, and another try may do.
        | asyncpg.NotNullViolationError
        | asyncpg.ProgramLimitExceededError
        | asyncpg.UntranslatableCharacterError
        | UnicodeError
        | OverflowError,
    )


def describe(error: BaseException) -> str:
    """Put an error into one line, for people.

    Only messages known to be free of a delivery's values are repeated: they may be secrets. Of any other error the
    class and the place are told.
    """
    text = ""
    if isinstance(error, LoopledgerError | msgspec.MsgspecError):
        text = str(error)
    elif isinstance(error, asyncpg.PostgresError):
        text = f"{error.message or 'no message'} ({error.sqlstate})"
    if not text:
        frames = traceback.extract_tb(error.__traceback__)
        text = f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return printable(f"{type(error).__name__}: {' '.join(text.split())}".rstrip(": "))


def printable(text: str) -> str:
    """Write a text so that Postgres and every log can hold it: what they cannot is escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
