"""The Postgres that the settings name: one that is there, or one that is started with the server."""

from contextlib import AsyncExitStack
from typing import NamedTuple
from urllib.parse import urlsplit

from eventstore.errors import SettingsError
from eventstore.postgres.cluster import embedded_dsn
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.processes import Account
from eventstore.postgres.roles import OWNER, PROJECTOR, RECEIVER
from runtime.data_directory import data_directory
from runtime.settings import Settings

# Connections of Postgres reserved for people and their tools.
SPARE_CONNECTIONS = 20


class Urls(NamedTuple):
    """The URLs of a database: for its owner, for who takes deliveries and for who folds. They may be the same."""

    owner: str
    receiving: str
    projecting: str

    @property
    def apart(self) -> bool:
        """Whether each has a role of its own."""
        return self.owner != self.receiving


def dsn_of(settings: Settings) -> str:
    """The URL of the database of a server that runs with these settings, for its owner."""
    return settings.database_url or embedded_dsn(data_directory(settings.data_dir), OWNER)


async def start_postgres(
    settings: Settings, stack: AsyncExitStack, workers: Account
) -> tuple[Urls, str]:
    """The URLs of the database, and a description for people without their passwords. Raises SettingsError."""
    urls = _given_urls(settings)
    if urls is not None:
        parts = urlsplit(urls.owner)
        return urls, f"{parts.hostname or 'local'}{parts.path} (DATABASE_URL)"
    data_dir = data_directory(settings.data_dir)
    processes = settings.workers + 1
    embedded = EmbeddedPostgres(
        data_dir,
        run_as=settings.postgres_user,
        group=workers and workers.pw_gid,
        stop_seconds=settings.limits.stop_seconds,
        wal_ready_mib=settings.limits.wal_ready_mib,
        max_connections=processes * (settings.limits.pool_connections + 4) + SPARE_CONNECTIONS,
    )
    await stack.enter_async_context(embedded)
    urls = Urls(*(embedded.dsn_for(role) for role in (OWNER, RECEIVER, PROJECTOR)))
    return urls, f"{data_dir} (embedded Postgres)"


def _given_urls(settings: Settings) -> Urls | None:
    """The URLs of a Postgres that is not ours; None if it is. Raises SettingsError."""
    receiving, projecting = settings.receiving_url, settings.projecting_url
    if settings.database_url is None:
        if receiving is None and projecting is None:
            return None
        missing, given = "database_url", "receiving_url" if receiving else "projecting_url"
    elif (receiving is None) == (projecting is None):
        owner = settings.database_url
        return Urls(owner, receiving or owner, projecting or owner)
    else:
        missing, given = "receiving_url", "projecting_url"
        if receiving is not None:
            missing, given = given, missing
    raise SettingsError(
        key=missing,
        problem=f"is missing, but {given} is set: who owns the log, who takes deliveries and who folds need a URL each",
        source=settings.sources.get(given, "the settings"),
    )
