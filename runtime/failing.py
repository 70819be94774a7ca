"""A program that fails says why in a line, not in a traceback."""

import sys

from eventstore.errors import LoopledgerError
from eventstore.postgres.failures import describe, is_outage


def print_failure(error: Exception) -> None:
    """Print on standard error what went wrong, and what to do."""
    sys.stderr.write(f"loopledger: {_message(error)}\n")


def _message(error: Exception) -> str:
    if isinstance(error, LoopledgerError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        # A file of this machine: no value of a delivery is in that.
        return f"{error.filename}: {error.strerror}"
    if is_outage(error):
        return f"the connection to Postgres was lost ({describe(error)}); start again"
    return (
        f"{describe(error)}: nobody foresaw this. Please report it, with the traceback that "
        "LOOPLEDGER_LOG_LEVEL=debug shows."
    )
