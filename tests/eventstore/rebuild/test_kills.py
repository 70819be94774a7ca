"""A rebuild while builders, workers, sessions and the server are killed: it comes out right.

CRASH_SEED is the seed of the killing; a failing run names its own.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import psutil

from tests.conftest import Cluster
from tests.support import Client
from tests.support.rebuilding import (
    CARDS,
    differences,
    eventually,
    fill,
    leftovers,
    level,
    meanwhile,
    post,
    until,
)
from tests.support.server_process import ServerProcess

if TYPE_CHECKING:
    from asyncpg import Connection, Record

SEED = int(os.environ.get("CRASH_SEED", "1"))

KILLS = int(os.environ.get("CRASH_KILLS", "4"))


class Target:
    """A real server over a database of its own, a sender and a reader, and what may be killed of it."""

    def __init__(self, server: ServerProcess, dsn: str, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.trace: list[str] = []
        self.sent = 0
        self.sending = True
        self.up = True
        self.problems: list[str] = []
        self._dsn = dsn

    def builders(self) -> list[psutil.Process]:
        """Every builder process over this database, whoever started it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    any("runtime.builder_process" in word for word in process.cmdline())
                    and process.environ().get("DATABASE_URL") == self._dsn
                ):
                    found.append(process)
        return found

    async def kill(self, what: str, connection: "Connection[Record]") -> None:
        """Kill one thing."""
        self.trace.append(what)
        if what == "sessions":
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        pids = {
            "builder": lambda: [process.pid for process in self.builders()],
            "projecting": lambda: self.server.workers("projecting"),
        }[what]()
        self.trace[-1] += f" {pids}"
        for pid in pids[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def keep_sending(client: Client, target: Target) -> None:
    """One delivery after the other until told to stop; a server that is away is tried again."""
    while target.sending:
        with suppress(aiohttp.ClientError, TimeoutError):
            answer = await client.loopz(
                "gift-card.updated", {"id": f"c-{target.sent % 50}", "balance": target.sent}
            )
            target.sent += answer.status == 200
        await asyncio.sleep(0.01)


async def keep_reading(client: Client, target: Target) -> None:
    """A card goes never back, and is always there."""
    position = 0
    while True:
        try:
            answer = await client.get("/v1/gift-cards/c-1")
        except aiohttp.ClientError as error:
            if target.up:
                target.problems.append(repr(error))
        else:
            if answer.status == 200:
                if answer.json["position"] < position:
                    target.problems.append(f"{answer.json['position']} after {position}")
                position = answer.json["position"]
            elif answer.status != 503 or target.trace[-1:] != ["sessions"]:
                target.problems.append(f"{answer.status} {answer.json}")
        await asyncio.sleep(0.02)


@asynccontextmanager
async def load(client: Client, target: Target) -> AsyncIterator[None]:
    """Deliveries and reads meanwhile.

    The sender stops by itself: were it cancelled, its last delivery might be appended at any time afterwards.
    """
    sender = asyncio.create_task(keep_sending(client, target))
    async with meanwhile(sender, keep_reading(client, target)):
        yield
        target.sending = False
        await sender


async def sure_of_a_rebuild(client: Client, target: Target) -> Any:  # noqa: ANN401 - JSON
    """Have a rebuild become ready, beginning it again whenever it fails for a reason that was our doing."""
    async with asyncio.timeout(60):
        while True:
            with suppress(aiohttp.ClientError):
                now = (await client.get(f"{CARDS}/rebuild")).json
                if now.get("status") == "ready":
                    return now
                if now["status"] in {404, "failed"}:
                    if now["status"] == "failed":
                        assert "builder process died" in now["error"], now
                        target.trace.append(now["error"])
                    await client.request("POST", f"{CARDS}/rebuild")
            await asyncio.sleep(0.1)


async def test_a_rebuild_survives_whatever_is_killed_and_comes_out_right(
    cluster: Cluster, data_dir: Path
) -> None:
    async with cluster.database() as dsn:
        await fill(dsn, 6_000)
        environ = {
            "DATABASE_URL": dsn,
            "LOOPLEDGER_LIMITS_REBUILD_EVENTS": "300",
            "LOOPLEDGER_LIMITS_REBUILD_PROCESSES": "2",
            "LOOPLEDGER_LIMITS_REBUILD_STREAMS": "600",
        }
        server = await asyncio.to_thread(ServerProcess, data_dir, environ=environ)
        target = Target(server, dsn, SEED)
        connection = await asyncpg.connect(dsn)
        try:
            async with aiohttp.ClientSession(server.url) as session:
                client = Client(session)
                await level(client, CARDS)
                async with load(client, target):
                    for _ in range(KILLS):
                        await client.request("POST", f"{CARDS}/rebuild")
                        await asyncio.sleep(target.chance.uniform(0, 2))
                        what = target.chance.choice(
                            ["builder", "builder", "projecting", "sessions"]
                        )
                        await target.kill(what, connection)
                    await sure_of_a_rebuild(client, target)
                assert target.problems == []
                assert target.sent > 50
                await level(client, CARDS)
                found = await until(client, f"{CARDS}/rebuild", lambda r: r["lag"] == 0)
                assert await differences(connection, "gift_cards", 1, found["generation"]) == {}
                assert await leftovers(connection) == set()
            # The whole server, from the parent down; builders are left to notice it themselves.
            async with aiohttp.ClientSession(server.url) as session:
                client = Client(session)
                await post(client, f"{CARDS}/discard")
                await client.request("POST", f"{CARDS}/rebuild")
                await eventually(target.builders)
            for pid in [server.process.pid, *server.workers("projecting"), *server.workers("http")]:
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not target.builders())
            await asyncio.to_thread(server.process.wait)
            server = await asyncio.to_thread(ServerProcess, data_dir, environ=environ)
            target.server = server
            async with aiohttp.ClientSession(server.url) as session:
                client = Client(session)
                found = await sure_of_a_rebuild(client, target)
                await level(client, CARDS)
                await until(client, f"{CARDS}/rebuild", lambda r: r["lag"] == 0)
                assert await differences(connection, "gift_cards", 1, found["generation"]) == {}
                assert found["diff"]["rows"]["changed"] == 0
                assert await leftovers(connection) == set()
                assert target.builders() == []
        except BaseException as error:
            error.add_note(f"{target.trace}\nCRASH_SEED={SEED} tries it again")
            raise
        finally:
            await connection.close()
            await asyncio.to_thread(server.stop)
