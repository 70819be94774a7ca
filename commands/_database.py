"""What the commands share that look into the database of a server themselves."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventstore.errors import LoopledgerError, PostgresError
from eventstore.postgres.database import Database
from eventstore.postgres.failures import is_outage
from runtime.data_directory import data_directory
from runtime.postgres import dsn_of
from runtime.wiring import settings_from


class NoPostgresError(LoopledgerError):
    """No embedded Postgres runs at {directory}. Start the server; or, if it keeps its data elsewhere, set
    LOOPLEDGER_DATA_DIR or DATABASE_URL as it has them.
    """  # noqa: D205 - one message


@asynccontextmanager
async def server_database() -> AsyncIterator[Database]:
    """The database of the server that runs with these settings, as its owner.

    Raises SettingsError, NoPostgresError, PostgresError.
    """
    settings = settings_from(os.environ)
    if settings.database_url is None:
        _check_embedded(data_directory(settings.data_dir))
    database = Database(dsn_of(settings), pool_connections=1)
    try:
        await database.open()
    except PostgresError as error:
        cause = error.__cause__
        if settings.database_url is not None or cause is None or not is_outage(cause):
            raise
        raise NoPostgresError(directory=data_directory(settings.data_dir)) from None
    try:
        yield database
    finally:
        await database.close()


def _check_embedded(directory: Path) -> None:
    """See that a server has been started there at all. Raises NoPostgresError."""
    try:
        (directory / "passwords").stat()
    except (FileNotFoundError, NotADirectoryError):
        raise NoPostgresError(directory=directory) from None
    except OSError:
        # Who may not enter gets to hear so when the password is read.
        return
