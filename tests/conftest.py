"""Real Postgres for every test: one server a run, one database a test, cloned from a template.

The server is an embedded one, or that of LOOPLEDGER_TEST_DATABASE_URL: for the tests of log, fold, rebuild and torture,
whose role may create databases there. Tests of the embedded Postgres itself start their own in any case.
"""

import asyncio
import itertools
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.roles import ADMIN
from runtime.settings import Settings
from server import Running, running_alone
from tests.support import Client
from tests.support.keys import LOCAL_KEYS, OPERATOR

if TYPE_CHECKING:
    from asyncpg import Connection, Record

pytest_plugins = ["tests.support.timeouts"]

# A server to run on, instead of an embedded one.
SERVER = os.environ.get("LOOPLEDGER_TEST_DATABASE_URL")

# On somebody's server there may be others: several runs, or the processes of one.
PREFIX = "test" if SERVER is None else f"loopledger_test_{secrets.token_hex(4)}"
TEMPLATE = f"{PREFIX}_template"

# The same examples in every run: a failure in CI is a failure at every desk.
hypothesis_settings.register_profile(
    "loopledger",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("loopledger")


# Of data directories and databases.
_NUMBERS = itertools.count(1)


class Cluster:
    """The run's Postgres server, and databases on it."""

    def __init__(self, admin_dsn: str) -> None:
        self._admin_dsn = admin_dsn

    def dsn(self, database: str) -> str:
        """The URL of one database."""
        return urlunsplit(urlsplit(self._admin_dsn)._replace(path=f"/{database}"))

    async def execute(self, statement: str) -> None:
        """Run a statement beside every test database."""
        connection = await asyncpg.connect(self._admin_dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self, template: str = TEMPLATE) -> AsyncIterator[str]:
        """A fresh database, by its URL, dropped afterwards whoever is still connected."""
        name = f"{PREFIX}_{next(_NUMBERS)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        # A copy has what its template has but for this.
        await self.execute(f'ALTER DATABASE {name} SET search_path = "$user", public, projected')
        try:
            yield self.dsn(name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")


class StartLoopledger(Protocol):
    """Start a Loopledger in this process; limits and providers may differ from the defaults."""

    def __call__(self, **changes: object) -> AbstractAsyncContextManager[Running]:
        """Start it; `changes` are fields of Settings."""


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> Iterator[None]:
    """Have the programs that tests start end on SIGINT, SIGQUIT and SIGHUP, though the suite runs in the background.

    A background job, and what nohup starts, ignores these, and "ignored" is inherited by every program started; a
    handler is not. This process still takes no notice.
    """
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, lambda _number, _frame: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def public_directory() -> Iterator[Path]:
    """A short directory that the unprivileged user of Postgres may enter, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def data_dir(public_directory: Path) -> Path:
    """Where a server of this test's own keeps its data; not there yet."""
    return public_directory / f"data-{next(_NUMBERS)}"


@pytest.fixture(scope="session")
def cluster(public_directory: Path) -> Iterator[Cluster]:
    """The server, with a template that holds the schema."""
    if SERVER is not None:
        found = Cluster(SERVER)
        asyncio.run(_make_template(found))
        yield found
        asyncio.run(found.execute(f"DROP DATABASE {TEMPLATE}"))
        return
    postgres = EmbeddedPostgres(public_directory / "cluster")
    asyncio.run(postgres.start())
    try:
        found = Cluster(postgres.dsn_for(ADMIN))
        asyncio.run(_make_template(found))
        yield found
    finally:
        asyncio.run(postgres.stop())


@pytest.fixture
async def dsn(cluster: Cluster) -> AsyncIterator[str]:
    """A database of this test's own, with the schema in it."""
    async with cluster.database() as url:
        yield url


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """The same, open."""
    found = Database(dsn, pool_connections=5)
    await found.open()
    yield found
    await found.close()


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator["Connection[Record]"]:
    """A connection to it, as any SQL user would have."""
    found = await asyncpg.connect(dsn)
    yield found
    await found.close()


@pytest.fixture
def start(dsn: str) -> StartLoopledger:
    """A function that starts a Loopledger over this test's database."""

    @asynccontextmanager
    async def start_one(**changes: object) -> AsyncIterator[Running]:
        limits = Limits(poll_seconds=0.05, pool_connections=5)
        values: dict[str, object] = {"port": 0, "database_url": dsn, "limits": limits, **changes}
        settings = Settings(**values)  # type: ignore[arg-type]
        async with running_alone(settings, OPERATOR) as loopledger:
            LOCAL_KEYS[loopledger.url] = loopledger.local_key
            yield loopledger

    return start_one


@pytest.fixture
async def client(start: StartLoopledger) -> AsyncIterator[Client]:
    """A running Loopledger over HTTP."""
    async with start() as loopledger, aiohttp.ClientSession(loopledger.url) as session:
        yield Client(session)


async def _make_template(cluster: Cluster) -> None:
    await cluster.execute(f"CREATE DATABASE {TEMPLATE}")
    database = Database(cluster.dsn(TEMPLATE), pool_connections=1)
    await database.open()
    await database.close()
