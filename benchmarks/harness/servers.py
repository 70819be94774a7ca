"""The servers that are measured, each with a Postgres of its own where it needs one, all with the same settings."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgspec
import psutil

from benchmarks.harness.command import fail
from benchmarks.harness.postgres import Postgres
from benchmarks.harness.server_process import (
    ROOT,
    LoopledgerProcess,
    ServerProcess,
    free_port,
)
from benchmarks.harness.signer import SIGNATURE_HEADER, SIGNATURE_PREFIX, Signer
from benchmarks.harness.usage import family
from providers import settings_types
from simulation.deliveries import deliveries

SECRET_VARIABLE = "BENCHMARK_SECRET"  # noqa: S105 - a name

LOG = "server.log"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One that runs. `http` take deliveries; from `roots` all of its processes descend."""

    url: str
    http: list[psutil.Process]
    roots: list[psutil.Process]

    def everything(self) -> list[psutil.Process]:
        """All processes, those of Postgres included."""
        return [each for root in self.roots for each in family(root)]


def missing_library() -> str | None:
    """Why the eventsourcing library cannot be measured; None if it can."""
    try:
        importlib.import_module("eventsourcing.postgres")
    except ImportError as error:
        return f"{error}; install the dependency group `bench`"
    return None


@asynccontextmanager
async def running(server: ServerProcess) -> AsyncIterator[psutil.Process]:
    """Wait until a server answers, and stop it in the end. Raises StartError."""
    try:
        await asyncio.to_thread(server.wait_until_ready)
        yield psutil.Process(server.process.pid)
    finally:
        await asyncio.to_thread(server.stop)


async def start_program(
    stack: AsyncExitStack, command: list[str], directory: Path, postgres: Postgres | None
) -> Server:
    """Start a server that takes deliveries in one process, at the port that follows its command."""
    port = free_port()
    server = ServerProcess([*command, str(port)], directory / LOG, port=port)
    process = await stack.enter_async_context(running(server))
    roots = [process, *([postgres.process] if postgres else [])]
    return Server(url=server.url, http=[process], roots=roots)


async def start_loopledger(
    stack: AsyncExitStack,
    postgres: Postgres,
    directory: Path,
    signer: Signer,
    workers: int,
    checkout: Path = ROOT,
    **settings: str,
) -> Server:
    """Start `loopledger serve` over a database. Raises BenchmarkError if it lets a wrong signature in."""
    server = LoopledgerProcess(
        directory / "data",
        directory / LOG,
        arguments=["--workers", str(workers)],
        environ={
            "DATABASE_URL": postgres.dsn,
            SECRET_VARIABLE: signer.secret,
            **_settings(),
            **settings,
        },
        checkout=checkout,
    )
    process = await stack.enter_async_context(running(server))
    http = [each for each in process.children() if "http" in each.cmdline()]
    if len(http) != workers:
        fail(f"expected {workers} processes that take deliveries, found {http}")
    _refuse_forgeries(server)
    return Server(url=server.url, http=http, roots=[process, postgres.process])


def _settings() -> dict[str, str]:
    hmac = {
        "header": SIGNATURE_HEADER,
        "prefix": SIGNATURE_PREFIX,
        "secrets": [{"env": SECRET_VARIABLE}],
    }
    verification = msgspec.json.encode({"hmac": hmac}).decode()
    return {
        "LOOPLEDGER_LOG_LEVEL": "warning",
        # All load comes from one address here.
        "LOOPLEDGER_LIMITS_ADDRESS_REQUESTS_PER_SECOND": "1000000",
        **{f"LOOPLEDGER_{name.upper()}_VERIFICATION": verification for name in settings_types()},
    }


def _refuse_forgeries(server: ServerProcess) -> None:
    (delivery,) = deliveries(0, 1)
    headers = Signer().headers(delivery)
    forged = Request(server.url + delivery.path, data=delivery.body, headers=headers)  # noqa: S310 - our own address
    try:
        with urlopen(forged, timeout=10) as response:  # noqa: S310
            status = response.status
    except HTTPError as error:
        status = error.code
    if status != HTTPStatus.UNAUTHORIZED:
        fail(f"verification is set, and a wrong signature was answered {status}: {server.output()}")
