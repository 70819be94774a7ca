"""Two Postgres servers, one the other's streaming standby, and a URL that leads to whichever takes writes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from eventstore.postgres.binaries import binaries_for
from eventstore.postgres.processes import account_for, postgres_in, run, spawn
from eventstore.postgres.server_settings import INITDB_OPTIONS
from tests.support.embedded import USER

if TYPE_CHECKING:
    import subprocess

DATABASE = "postgres"


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    """Look until it holds; for half a minute."""
    for _ in range(1500):
        if await holds():
            return
        await asyncio.sleep(0.02)
    message = "it never held"
    raise TimeoutError(message)


class PairServer:
    """One server of the two."""

    def __init__(self, directory: Path, port: int) -> None:
        self.pgdata = directory / f"pair-{port}"
        self.account = account_for(USER, self.pgdata)
        self.binaries = binaries_for(self.account)
        self.socket = directory / f"s{port}"
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        for each in (self.pgdata, self.socket):
            each.mkdir(mode=0o700)
            if self.account is not None:
                os.chown(each, self.account.pw_uid, self.account.pw_gid)

    @property
    def dsn(self) -> str:
        """The URL of this server alone."""
        return f"postgresql://loopledger@/{DATABASE}?host={self.socket}&port={self.port}"

    def tool(self, name: str, *arguments: str) -> None:
        """Run one of Postgres's programs as the server's account."""
        status, output = run(self.account, [self.binaries / name, *arguments], self.pgdata)
        assert status == 0, output

    async def start(self, **settings: str) -> None:
        """Start it, and wait until it answers."""
        settings |= {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            "port": str(self.port),
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        log = os.open(self.pgdata.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
        try:
            command: list[str | Path] = [self.binaries / "postgres", "-D", self.pgdata, *options]
            self.process = spawn(self.account, command, Path("/"), log)
        finally:
            os.close(log)
        await until(self._answers)

    async def _answers(self) -> bool:
        try:
            await self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    async def execute(self, statement: str) -> object:
        """Run a statement here; gives back its value."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def kill(self) -> None:
        """End it at once, as a machine that loses its power would."""
        for process in postgres_in(self.pgdata):
            process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Pair:
    """A primary with its standby."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o711)
        self.primary = PairServer(directory, 5432)
        self.standby = PairServer(directory, 5433)

    @property
    def dsn(self) -> str:
        """The URL of the one that takes writes."""
        hosts = f"{self.primary.socket},{self.standby.socket}"
        return (
            f"postgresql://loopledger@/{DATABASE}?host={hosts}&port=5432,5433"
            "&target_session_attrs=read-write"
        )

    async def start(self, *, synchronous: bool) -> None:
        """Start the primary, then the standby as a copy of it."""
        self.primary.tool(
            "initdb", *INITDB_OPTIONS, "--auth-local=trust", "-D", str(self.primary.pgdata)
        )
        await self.primary.start()
        source = f"host={self.primary.socket} port=5432 user=loopledger application_name=standby"
        self.standby.tool(
            *("pg_basebackup", "-D", str(self.standby.pgdata), "-d", source),
            *("-R", "-X", "stream", "-C", "-S", "standby", "-c", "fast"),
        )
        await self.standby.start()
        if synchronous:
            await self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            await self.primary.execute("SELECT pg_reload_conf()")
            streaming = "SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication"
            await until(lambda: self.primary.execute(streaming))

    async def catch_up(self) -> None:
        """Wait until the standby has all that the primary has now."""
        written = await self.primary.execute("SELECT pg_current_wal_lsn()::text")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        await until(lambda: self.standby.execute(replayed))

    async def cut(self) -> None:
        """Have the standby hear nothing more of its primary."""
        await self.standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await self.standby.execute("SELECT pg_reload_conf()")
        alone = "SELECT count(*) = 0 FROM pg_stat_wal_receiver"
        await until(lambda: self.standby.execute(alone))

    async def fail_over(self) -> None:
        """Lose the primary, and promote the standby."""
        self.primary.kill()
        await self.standby.execute("SELECT pg_promote()")

    def stop(self) -> None:
        """End both."""
        self.primary.kill()
        self.standby.kill()
