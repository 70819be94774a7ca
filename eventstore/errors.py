"""The errors of Loopledger, each with its facts.

The docstring of an error is its message; the keyword arguments are its facts, and fill the message in.
postgres/failures.py says which error of Postgres becomes which of these.
"""

from typing import ClassVar


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
    verified. Set up verification (docs/verification.md), listen on 127.0.0.1, or start with
    --accept-unverified (LOOPLEDGER_ACCEPT_UNVERIFIED=true) behind an access control of your own.
    """  # noqa: D205 - one message


class ListenError(LoopledgerError):
    """Cannot listen on {address}: {problem}. {remedy}"""  # noqa: D400 - the remedy ends it


class PostgresError(LoopledgerError):
    """Postgres could not be used: {problem}. {remedy}"""  # noqa: D400 - the remedy ends it


class PoolerError(PostgresError):
    """Postgres could not be used: a pooler stands before it, and {problem}. Set DATABASE_URL to the server itself, or
    to a pooler in session mode that passes on the parameters of a connection.
    """  # noqa: D205 - one message


class LogCorruptedError(LoopledgerError):
    """The log contradicts itself: {problem}. Nothing was changed; restore the database from a backup."""


class QueueFullError(LoopledgerError):
    """The append queue is full: {deliveries} deliveries, {size} bytes are waiting."""


class UnavailableError(LoopledgerError):
    """The log cannot be written to at the moment: {problem}. Nothing was acknowledged; send it again."""


class RefusedError(LoopledgerError):
    """The database refuses this delivery: {problem}."""


class NotSetUpError(LoopledgerError):
    """{projection} is not set up yet: the process that projects is creating its tables, or waiting for a lock on them.
    Deliveries are recorded all the same.
    """  # noqa: D205 - one message


class NotFoldedError(LoopledgerError):
    """{projection} has folded up to position {checkpoint}, not yet up to {position}; the newest event is {head}."""


class HiddenHeadError(NotFoldedError):
    """{projection} has not yet folded up to {position}."""


class TooManyListsError(LoopledgerError):
    """All {limit} whole lists that may be read at one time are being read; try again later."""


class UnstorableError(LoopledgerError):
    """{field} {problem}."""


class SystematicError(LoopledgerError):
    """{projection} stopped at position {checkpoint}: of the events of {topic}, {count} in a row, each of another thing,
    could not be folded, the last because of: {error}. This looks like a fault of the code or of the settings, not of
    single events. Fix it, restart, and rebuild to fold those already in quarantine; or, if they belong there, raise
    LOOPLEDGER_LIMITS_FAILURES_IN_A_ROW.
    """  # noqa: D205 - one message


class NotSwitchedError(LoopledgerError):
    """Generation {generation} of {projection} was not made live: {problem}"""  # noqa: D400 - the problem ends it


class RebuildingError(LoopledgerError):
    """A rebuild of {projection} is under way: generation {generation} is {progress}. Promote or discard it first."""


class NotReadyError(LoopledgerError):
    """No generation of {projection} is ready to be promoted."""


class NothingRetiredError(LoopledgerError):
    """There is no earlier generation of {projection} to roll back to."""


class NotFoundError(LoopledgerError):
    """There is no {what}."""


class AmbiguousError(LoopledgerError):
    """{what} belongs to more than one thing: give the merchant_id (and the provider, if they share that too)."""


class CursorError(LoopledgerError):
    """The parameter {parameter} is not a cursor that a list gave out; leave it out for the first page."""


class KeyNameError(LoopledgerError):
    """A key with the name {name} is in force already: give the new one another name, or revoke that one first."""


class TooManyKeysError(LoopledgerError):
    """There are {limit} keys that are not revoked, the most that are kept: revoke those that nobody uses."""


class FencedError(LoopledgerError):
    """Another projector has moved {projection} on from checkpoint {checkpoint}."""


class StateChangedError(LoopledgerError):
    """{projection} stopped at position {checkpoint}: in its table (generation {generation}) a state is not the one that
    was folded. Something else writes to that table. Nothing was overwritten; find out what it was, then rebuild.
    """  # noqa: D205 - one message


class GapError(LoopledgerError):
    """{projection} waits at position {checkpoint}: by its head the log reaches to {head}, but event {missing} has not
    been there for {seconds:.0f} s. Something removed it, or moved the head; restore the database from a backup. Where
    the log is distributed over machines, and one of them is away, it goes on by itself.
    """  # noqa: D205 - one message


class TermOverError(LoopledgerError):
    """Another process leads now: term {term} is over."""


class IncompleteReadError(LoopledgerError):
    """A read from position {after} to {through} gave {count} events, and those left out do not explain the rest."""


class IncompleteError(LoopledgerError):
    """{projection} is incomplete: folded + ignored + quarantined would not equal its checkpoint."""


def printable(text: str) -> str:
    """Write a text so that Postgres and every log can hold it: what they cannot is escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
