"""What an error of Postgres or its driver means: an outage, or that it refuses a value."""

import asyncio
import traceback
from pathlib import Path

import asyncpg
import msgspec

from eventstore.errors import LoopledgerError, printable
from eventstore.postgres.mismatch import describe_mismatch

# Postgres is away or going away. asyncpg shows a dying server in many ways; InternalClientError is one of them (its
# protocol state is cut off half-way through a message).
_OUTAGES = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DeadlockDetectedError,
)

# asyncpg raises InterfaceError both where a connection is closed or closing and where it is used wrongly. These are our
# own mistakes for certain; what else there is may be a connection that dies.
_MISUSES = (
    asyncpg.ClientConfigurationError,
    asyncpg.UnsupportedClientFeatureError,
    asyncpg.UnsupportedServerFeatureError,
)
_MISUSE_MESSAGES = (
    "the server expects ",
    "the number of query arguments ",
    "query argument ",
    "no arguments are expected",
)

# Outages that do not end by themselves: a full disk, a statement that takes too long.
_LASTING_OUTAGES = (asyncpg.DiskFullError, asyncpg.QueryCanceledError)

# Errors about the values sent. Of the constraints only NOT NULL: the others fail by our own fault, and another try may
# do.
_REFUSED_VALUES = (
    asyncpg.DataError,
    asyncpg.NotNullViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.UntranslatableCharacterError,
    UnicodeError,
    OverflowError,
)


TIMELINE_REMEDY = (
    "A replica was promoted, or a backup restored. See that no other server is written to, then run"
    " `loopledger failover accept`."
)

# What append_events raises (schema.sql), and what to do.
_REFUSALS = {
    "LL000": "Restore the database from a backup.",
    "LL001": "If this database is to go on without what came after, run `loopledger failover accept --behind`.",
    "LL002": "Set both to on.",
    "LL003": TIMELINE_REMEDY,
}


def refusal_of(error: BaseException) -> str | None:
    """Why the database takes no appends at all, and what to do; None if that is not what `error` says."""
    if not isinstance(error, asyncpg.PostgresError):
        return None
    remedy = _REFUSALS.get(error.sqlstate or "")
    return f"{error.message}. {remedy}" if remedy else None


def is_lost_race(error: BaseException) -> bool:
    """Say whether an append met a partition that another session made at that very moment: the next try finds it."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


def is_outage(error: BaseException) -> bool:
    """Say whether Postgres is away or going away, so that trying again helps."""
    return isinstance(error, _OUTAGES) and not _is_misuse(error)


def is_transient(error: BaseException) -> bool:
    """Say whether `error` is an outage that ends by itself."""
    return is_outage(error) and not isinstance(error, _LASTING_OUTAGES)


def _is_misuse(error: BaseException) -> bool:
    """Say whether asyncpg was used wrongly, such as with too few arguments: the next try would fail alike."""
    return isinstance(error, asyncpg.InterfaceError) and (
        isinstance(error, _MISUSES) or str(error).startswith(_MISUSE_MESSAGES)
    )


def is_refused_value(error: BaseException) -> bool:
    """Say whether `error` is about the values sent: the same values will fail again, others may not."""
    return isinstance(error, _REFUSED_VALUES)


def describe(error: BaseException) -> str:
    """Put an error into one line, for people.

    Only messages known to be free of a delivery's values are repeated: they may be secrets. Of any other error the
    class and the place are told.
    """
    if isinstance(error, LoopledgerError):
        # A sentence, written for people.
        return printable(" ".join(str(error).split()))
    if isinstance(error, msgspec.ValidationError):
        return printable(describe_mismatch(str(error)))
    text = ""
    if isinstance(error, msgspec.MsgspecError):
        text = str(error)
    elif isinstance(error, asyncpg.PostgresError):
        text = f"{error.message or 'no message'} ({error.sqlstate})"
    if not text:
        frames = traceback.extract_tb(error.__traceback__)
        text = f"at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return printable(f"{type(error).__name__}: {' '.join(text.split())}".rstrip(": "))
