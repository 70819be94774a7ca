"""The servers that are measured, each with a Postgres of its own where it needs one, all with the same settings."""

import importlib
import os
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg
import msgspec
import psutil

from benchmarks import processes
from benchmarks.processes import fail
from benchmarks.traffic import SIGNATURE_HEADER, SIGNATURE_PREFIX, Signer, gift_card_updates
from eventstore.limits import Limits
from eventstore.postgres.embedded import EmbeddedPostgres
from providers import settings_types

SECRET_VARIABLE = "BENCHMARK_SECRET"  # noqa: S105 - a name
UNLIMITED = 1_000_000
# Set where this version of Loopledger has them: all load comes from one address here.
UNLIMITED_SETTINGS = ("address_requests_per_second",)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One that runs. `http` take deliveries; from `roots` all of its processes descend."""

    url: str
    http: list[psutil.Process]
    roots: list[psutil.Process]

    def everything(self) -> list[psutil.Process]:
        """All processes, those of Postgres included."""
        return [each for root in self.roots for each in processes.family(root)]


class Postgres(msgspec.Struct, frozen=True):
    """A Postgres that runs."""

    dsn: str
    process: psutil.Process


def missing_library() -> str | None:
    """Why the eventsourcing library cannot be measured; None if it can."""
    try:
        importlib.import_module("eventsourcing.postgres")
    except ImportError as error:
        return f"{error}; install the dependency group `bench`"
    return None


def verifies(provider: str) -> bool:
    """Whether this version of Loopledger can verify the deliveries of a provider."""
    return "verification" in {f.name for f in msgspec.structs.fields(settings_types()[provider])}


async def start_postgres(stack: AsyncExitStack, directory: Path) -> Postgres:
    """Start an embedded Postgres that loses nothing. Raises BenchmarkError if it would."""
    embedded = EmbeddedPostgres(directory)
    await stack.enter_async_context(embedded)
    connection = await asyncpg.connect(embedded.dsn)
    try:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if (value := await connection.fetchval(f"SHOW {setting}")) != "on":
                fail(f"{setting} is {value}: only durable servers are compared")
    finally:
        await connection.close()
    if embedded.postmaster_pid is None:
        fail("Postgres ended")
    return Postgres(embedded.dsn, psutil.Process(embedded.postmaster_pid))


async def start_handler(stack: AsyncExitStack, name: str, directory: Path) -> Server:
    """Start one of benchmarks.handlers, with a Postgres unless it is the bare one."""
    postgres = None if name == "limit" else await start_postgres(stack, directory / "data")
    command = ["-m", "benchmarks.handlers", name, *([postgres.dsn] if postgres else [])]
    url, process = await stack.enter_async_context(
        processes.server(command, directory / "server.log")
    )
    roots = [process, *([postgres.process] if postgres else [])]
    return Server(url=url, http=[process], roots=roots)


async def start_loopledger(
    stack: AsyncExitStack, postgres: Postgres, directory: Path, signer: Signer, workers: int
) -> Server:
    """Start `loopledger serve` over a database. Raises BenchmarkError if it lets a wrong signature in."""
    config = _write_settings(directory)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LOOPLEDGER_")}
    environ |= {
        "DATABASE_URL": postgres.dsn,
        "LOOPLEDGER_CONFIG": str(config),
        SECRET_VARIABLE: signer.secret,
    }
    command = ["-m", "commands", "serve", "--workers", str(workers)]
    url, process = await stack.enter_async_context(
        processes.server(command, directory / "server.log", environ)
    )
    http = [each for each in process.children() if "http" in each.cmdline()]
    if len(http) != workers:
        fail(f"expected {workers} processes that take deliveries, found {http}")
    if verifies("loopz"):
        _refuse_forgeries(url, directory / "server.log")
    return Server(url=url, http=http, roots=[process, postgres.process])


def _write_settings(directory: Path) -> Path:
    known = {field.name for field in msgspec.structs.fields(Limits)}
    lines = ["port = 0", 'log_level = "warning"', "[limits]"]
    lines += [f"{name} = {UNLIMITED}" for name in UNLIMITED_SETTINGS if name in known]
    for provider in filter(verifies, settings_types()):
        lines += [
            f"[{provider}.verification.hmac]",
            f'header = "{SIGNATURE_HEADER}"',
            f'prefix = "{SIGNATURE_PREFIX}"',
            f'secrets = [{{ env = "{SECRET_VARIABLE}" }}]',
        ]
    file = directory / "loopledger.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def _refuse_forgeries(url: str, log: Path) -> None:
    (delivery,) = gift_card_updates(0, 1)
    headers = Signer().headers(delivery)
    forged = Request(url + delivery.path, data=delivery.body, headers=headers)  # noqa: S310 - our own address
    try:
        with urlopen(forged, timeout=10) as answer:  # noqa: S310
            status = answer.status
    except HTTPError as error:
        status = error.code
    if status != 401:  # noqa: PLR2004
        fail(
            f"verification is set, and a wrong signature was answered {status}: {processes.tail(log)}"
        )
