"""Several processes over one log: positions stay without holes, one projects, what dies is replaced."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from simulation.client import send
from simulation.deliveries import deliveries
from tests.conftest import Cluster
from tests.support.server_process import ServerProcess


@pytest.fixture
def server(data_dir: Path) -> Iterator[ServerProcess]:
    found = ServerProcess(data_dir, arguments=["--workers", "2"])
    yield found
    found.stop()


def counts(server: ServerProcess) -> dict[str, tuple[int, int, int]]:
    """Of each projection: the head, the lag, and all that it accounts for."""
    return {
        item["name"]: (
            item["head"],
            item["lag"],
            item["folded"] + item["ignored"] + item["quarantined"],
        )
        for item in server.get("/v1/projections")["items"]
    }


def has_folded(server: ServerProcess, position: int) -> bool:
    """Whether every projection is there."""
    items = server.get("/v1/projections")["items"]
    return all(item["checkpoint"] >= position for item in items)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def load(server: ServerProcess, count: int, seed: int) -> int:
    """Send a stream of deliveries; gives back how many were accepted."""
    return asyncio.run(send(server.url, deliveries(seed, count), connections=16)).accepted


def test_two_workers_and_one_projecting_process_leave_no_hole_and_no_lag(
    server: ServerProcess,
) -> None:
    assert (len(server.workers("http")), len(server.workers("projecting"))) == (2, 1)
    assert load(server, 1_500, seed=1) == 1_500
    eventually(lambda: set(counts(server).values()) == {(1_500, 0, 1_500)})
    positions: list[int] = []
    after = 0
    while page := server.get(f"/v1/events?limit=1000&after={after}")["items"]:
        positions += [event["position"] for event in page]
        after = positions[-1]
    assert positions == list(range(1, 1_501))


def test_when_the_projecting_process_dies_another_takes_over_and_folds_nothing_twice(
    server: ServerProcess,
) -> None:
    for seed in range(3):
        (pid,) = server.workers("projecting")
        os.kill(pid, signal.SIGKILL)
        assert load(server, 400, seed) == 400
        eventually(lambda pid=pid: server.workers("projecting") not in ([], [pid]))  # type: ignore[misc]
    eventually(lambda: set(counts(server).values()) == {(1_200, 0, 1_200)})


def test_when_a_worker_dies_the_other_goes_on_and_it_is_replaced(server: ServerProcess) -> None:
    for number in range(3):
        os.kill(server.workers("http")[0], signal.SIGKILL)
        assert server.deliver(f"l-{number}") == number + 1
        eventually(lambda: len(server.workers("http")) == 2)


def test_no_worker_outlives_a_parent_that_is_killed(server: ServerProcess) -> None:
    pids = server.workers("http") + server.workers("projecting")
    os.kill(server.process.pid, signal.SIGKILL)
    os.kill(server.postmaster_pid(), signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)


async def test_of_two_servers_on_one_database_one_projects_and_the_other_takes_over(
    cluster: Cluster, data_dir: Path
) -> None:
    async with cluster.database() as url:
        environ = {"DATABASE_URL": url}
        one = await asyncio.to_thread(ServerProcess, data_dir, environ=environ)
        other = await asyncio.to_thread(
            ServerProcess, data_dir.with_name(f"{data_dir.name}-other"), environ=environ
        )
        connection = await asyncpg.connect(url)
        # Every database's locks are listed, and starting processes lock the schema for a moment.
        holders = """
            SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
            WHERE datname = current_database() AND locktype = 'advisory' AND granted
                AND objid::bigint = hashtext('loopledger projector')::bigint & 4294967295
        """
        try:
            for position in range(1, 6):
                server = (one, other)[position % 2]
                assert await asyncio.to_thread(server.deliver, "l-1") == position
            assert await connection.fetchval(holders) == 1
            workers = one.workers("http") + one.workers("projecting")
            one.process.kill()
            # Until they notice that their parent is gone, they go on.
            await asyncio.to_thread(eventually, lambda: not any(map(psutil.pid_exists, workers)))
            await asyncio.to_thread(other.deliver, "l-2")
            await asyncio.to_thread(eventually, lambda: has_folded(other, 6))
            assert await connection.fetchval(holders) == 1
        finally:
            await connection.close()
            await asyncio.to_thread(one.stop)
            await asyncio.to_thread(other.stop)


async def test_an_idle_server_asks_postgres_a_few_questions_a_second(
    cluster: Cluster, data_dir: Path
) -> None:
    async with cluster.database() as url:
        environ = {"DATABASE_URL": url}
        server = await asyncio.to_thread(ServerProcess, data_dir, environ=environ)
        connection = await asyncpg.connect(url)
        commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        try:
            windows: list[int] = []
            # What the start asked is counted late, whenever its sessions go idle: only a quiet window counts.
            while not windows or (min(windows) > 4 * 3 and len(windows) < 6):
                before = await connection.fetchval(commits)
                await asyncio.sleep(3)
                windows.append(await connection.fetchval(commits) - before)
            assert min(windows) <= 4 * 3, windows
        finally:
            await connection.close()
            await asyncio.to_thread(server.stop)
