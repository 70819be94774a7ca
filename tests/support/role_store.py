"""A database in which each has a role: on the embedded server, and as docs/operations.md has it made elsewhere."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import asyncpg

from eventstore.errors import NotFoldedError, NotSetUpError
from eventstore.limits import Limits
from eventstore.postgres.roles import ADMIN, OWNER, PROJECTOR, READER, RECEIVER
from eventstore.postgres.server_settings import INITDB_OPTIONS
from runtime.postgres import Urls
from runtime.settings import Settings
from runtime.wiring import Parts, open_parts, prepare, projecting
from tests.conftest import Cluster
from tests.support import ROOT, new_event
from tests.support.standby import PairServer

CODE = "SECRET-CODE-1234"

SETTINGS = Settings(limits=Limits(poll_seconds=0.05, pool_connections=3))

PASSWORD = "secret"  # noqa: S105 - of a server for one test

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
SECTION = PAGE.partition("### A Postgres of your own")[2].partition("\n## ")[0]


class Store(NamedTuple):
    """A database, with a card on record and folded; `dsn` gives its URL for a role."""

    name: str
    dsn: Callable[[str], str]

    @property
    def urls(self) -> Urls:
        """The URLs that a server uses."""
        return Urls(self.dsn(OWNER), self.dsn(RECEIVER), self.dsn(PROJECTOR))

    async def execute(self, statement: str) -> None:
        """Run a statement as the superuser."""
        connection = await asyncpg.connect(self.dsn(ADMIN))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def fill(urls: Urls) -> None:
    """Set it up, take two deliveries of a card, and fold them."""
    await prepare(SETTINGS, urls)
    async with AsyncExitStack() as stack:
        received = await stack.enter_async_context(
            open_parts(SETTINGS, urls.receiving, append=True, follow=True)
        )
        card = {"id": "c-1", "code": CODE, "gan": "short", "balance": 5}
        await received.appender.append(new_event("gift-card.updated", card))
        last = await received.appender.append(new_event("gift-card.updated", card | {"balance": 7}))
        parts = await stack.enter_async_context(
            open_parts(SETTINGS, urls.projecting, append=False, follow=True)
        )
        await stack.enter_async_context(projecting(SETTINGS, parts, urls.projecting))
        await _folded(received, last.position)


async def _folded(parts: Parts, position: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with suppress(NotSetUpError, NotFoldedError):
                await parts.registry.wait_for("gift_cards", position, 1)
                return
            await asyncio.sleep(0.05)


async def embedded_store(cluster: Cluster) -> Store:
    """A database of the suite's own server, which is an embedded one."""

    def dsn(role: str) -> str:
        own = cluster.dsn("roles")
        return own.replace(f"//{ADMIN}@", f"//{role}@").replace(
            f"/passwords/{ADMIN}", f"/passwords/{role}"
        )

    await cluster.execute("DROP DATABASE IF EXISTS roles WITH (FORCE)")
    await cluster.execute(f"CREATE DATABASE roles OWNER {OWNER}")
    await cluster.execute("REVOKE ALL ON DATABASE roles FROM PUBLIC")
    await cluster.execute(f"GRANT CONNECT ON DATABASE roles TO {RECEIVER}, {PROJECTOR}, {READER}")
    store = Store("roles", dsn)
    await fill(store.urls)
    return store


def documented_statements() -> list[str]:
    """The statements that make the roles, as they are written, with passwords."""
    (block,) = re.findall(r"```psql\n(.*?)```", SECTION, re.DOTALL)
    return [each.replace("'...'", f"'{PASSWORD}'") for each in block.split(";") if each.strip()]


def takeover_statements() -> list[str]:
    """Those that besides give the owner a database that is in use, each as it is written."""
    return [
        " ".join(each.split())
        for each in re.findall(r"`((?:ALTER DATABASE|REASSIGN)[^`]*)`", SECTION)
    ]


@contextmanager
def own_server(directory: Path) -> Iterator[PairServer]:
    """A server as somebody runs it: nobody has made anything there, and all but the superuser need a password."""
    directory.mkdir(mode=0o711)
    server = PairServer(directory, 5432)
    server.tool("initdb", *INITDB_OPTIONS, "--auth-local=trust", "-D", str(server.pgdata))
    rules = f"local all {ADMIN} trust\nlocal all all scram-sha-256\n"
    (server.pgdata / "pg_hba.conf").write_text(rules)
    asyncio.run(server.start(fsync="on"))
    try:
        yield server
    finally:
        server.kill()


def store_on(server: PairServer, name: str) -> Store:
    """A database of such a server."""

    def dsn(role: str) -> str:
        who = role if role == ADMIN else f"{role}:{PASSWORD}"
        return f"postgresql://{who}@/{name}?host={server.socket}&port={server.port}"

    return Store(name, dsn)


async def documented_store(server: PairServer) -> Store:
    """The database that docs/operations.md has a superuser make."""
    for statement in documented_statements():
        await server.execute(statement)
    store = store_on(server, "loopledger")
    await fill(store.urls)
    return store
