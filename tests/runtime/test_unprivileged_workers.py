"""Started by root where every user can read the code: workers run as another user, and do their work."""

import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.support.public_python import make_public_python
from tests.support.server_process import ServerProcess, patiently

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root has something to give up"
)


class Installation(NamedTuple):
    """An interpreter, and where the product is."""

    python: Path
    product: Path


@pytest.fixture(scope="module")
def installation(public_directory: Path) -> Iterator[Installation]:
    """Made once for these tests."""
    directory = public_directory / "installed"
    yield Installation(*make_public_python(directory))
    shutil.rmtree(directory)


@pytest.fixture
def serve(installation: Installation, data_dir: Path) -> Iterator[Callable[[], ServerProcess]]:
    servers: list[ServerProcess] = []

    def start() -> ServerProcess:
        command = [str(installation.python), "server.py"]
        servers.append(ServerProcess(data_dir, command, checkout=installation.product))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def user_of(pid: int) -> str:
    """Whom a process runs as, if it is that user for good: real, effective and saved."""
    uids = psutil.Process(pid).uids()
    assert len(set(uids)) == 1
    return pwd.getpwuid(uids.real).pw_name


def test_workers_run_as_another_user_take_deliveries_and_fold_them_again_after_a_kill(
    serve: Callable[[], ServerProcess],
) -> None:
    server = serve()
    assert server.deliver("l-1") == 1
    assert user_of(server.process.pid) == "root"
    postgres = user_of(server.postmaster_pid())
    for role in ("http", "projecting"):
        (worker,) = server.workers(role)
        assert user_of(worker) not in {"root", postgres}
        status = Path(f"/proc/{worker}/status").read_text()
        assert "\nGroups:\t \n" in status
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while [worker] == (now := server.workers(role)) or not now:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert patiently(lambda: server.deliver("l-2")) == 2
    page = patiently(lambda: server.get("/v1/locations?at_least=2"))
    assert [item["id"] for item in page["items"]] == ["l-1", "l-2"]
    assert user_of(server.workers("http")[0]) not in {"root", postgres}
    assert "workers_privileged" not in server.output()


def test_where_the_user_cannot_read_the_code_a_warning_says_what_to_do(
    serve: Callable[[], ServerProcess], installation: Installation
) -> None:
    closed = installation.product / "projections"
    closed.chmod(0o700)
    try:
        server = serve()
        assert server.deliver("l-1") == 1
    finally:
        closed.chmod(0o755)
    (worker,) = server.workers("http")
    assert user_of(worker) == "root"
    output = server.output()
    assert output.count("workers_privileged") == 1
    assert f"may not read {closed}" in output
    assert "install Python and Loopledger where every user can read them" in output
