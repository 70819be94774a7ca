"""The server as processes. `python server.py` is `loopledger serve`.

One parent process holds Postgres and the address; under it run N processes that take deliveries and answer questions,
and one that projects.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
import uvloop

from eventstore.errors import ExposedError, LoopledgerError, SettingsError
from eventstore.postgres.cluster import embedded_dsn
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.failures import describe, is_outage
from providers import load_providers
from runtime.arguments import whole_number
from runtime.data_directory import data_directory
from runtime.logging import configure_logging
from runtime.settings import Settings
from runtime.supervisor import Workers, parent_gone
from runtime.wiring import (
    make_verifier,
    open_parts,
    prepare,
    projecting,
    retry_until_available,
    serving_http,
    settings_from,
)
from web.auth import is_loopback

logger = structlog.get_logger()

# Connections of Postgres for people and their tools.
SPARE_CONNECTIONS = 20

# Files that a process has open besides its connections.
SPARE_FILES = 100

# New objects, less those gone, until the collector looks.
GARBAGE_THRESHOLD = 50_000

# How much the projecting process yields to those that take deliveries.
PROJECTING_NICENESS = 5

# Seconds between looks at whether the workers answer yet.
LOOK_SECONDS = 0.02


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A Loopledger that takes deliveries."""

    url: str
    storage: str
    head: int


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Run a Loopledger of several processes under this one, with its Postgres.

    On the way out it takes no more, finishes what it took, and stops its Postgres.
    """
    refuse_exposure(settings)
    async with AsyncExitStack() as stack:
        # The address first: whether it is free shows before anything is started.
        listener = stack.enter_context(_bound_socket(settings))
        dsn, storage = await _postgres(settings, stack)
        if settings.database_url is None:
            # Its supervisor brings it back: a parent that died of its absence would only have to begin again.
            never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            head = await retry_until_available(lambda: prepare(settings, dsn), never)
        else:
            head = await prepare(settings, dsn)
        url = _url(listener)
        workers = Workers(
            _commands(settings, listener),
            environ={
                **os.environ,
                "DATABASE_URL": dsn,
                "LOOPLEDGER_INSECURE": str(settings.insecure).lower(),
            },
            inherit=[listener.fileno()],
        )
        stack.push_async_callback(workers.stop, settings.limits.drain_seconds + 1)
        await workers.start()
        await _answers(url)
        yield Running(url=url, storage=storage, head=head)


@asynccontextmanager
async def running_alone(settings: Settings) -> AsyncIterator[Running]:
    """Run a Loopledger in this one process, over the database of the settings: for tests."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_bound_socket(settings))
        dsn, storage = await _postgres(settings, stack)
        parts = await stack.enter_async_context(open_parts(settings, dsn, append=True, follow=True))
        await stack.enter_async_context(projecting(settings, parts, dsn))
        await stack.enter_async_context(serving_http(settings, parts, listener))
        yield Running(url=_url(listener), storage=storage, head=parts.head.position)


def _commands(settings: Settings, listener: socket.socket) -> dict[str, list[str]]:
    program = str(Path(__file__).resolve())
    http = [program, "--role", "http", "--socket", str(listener.fileno())]
    names = [f"http-{n}" for n in range(1, settings.workers + 1)]
    return {**dict.fromkeys(names, http), "projecting": [program, "--role", "projecting"]}


async def _work(settings: Settings, given: argparse.Namespace) -> None:
    """Be one worker, until the parent stops it or is gone."""
    if settings.database_url is None:
        raise SettingsError(key="DATABASE_URL", problem="is missing", source="the parent process")
    http = given.role == "http"
    async with AsyncExitStack() as stack:
        end = asyncio.ensure_future(parent_gone(given.lifeline))
        stack.callback(end.cancel)
        dsn = settings.database_url
        parts = await retry_until_available(
            lambda: stack.enter_async_context(
                open_parts(settings, dsn, append=http, follow=not http)
            ),
            end,
        )
        if http:
            listener = socket.socket(fileno=given.socket)
            limits = msgspec.structs.replace(
                settings.limits, connections=_room_for(settings.limits.connections)
            )
            settings = msgspec.structs.replace(settings, limits=limits)
            await stack.enter_async_context(serving_http(settings, parts, listener))
            _collect_seldom()
            await end
        else:
            # Who waits for a 200 comes first: a fold can be made up for.
            os.nice(PROJECTING_NICENESS)
            leading = await retry_until_available(
                lambda: stack.enter_async_context(projecting(settings, parts, dsn)), end
            )
            _collect_seldom()
            await asyncio.wait([end, leading], return_when=asyncio.FIRST_COMPLETED)
            if leading.done():
                # An error that nobody foresaw: the parent starts this process afresh.
                leading.result()


def _room_for(connections: int) -> int:
    """Be allowed the files that so many connections take; gives back how many of them there may be."""
    wanted = connections + SPARE_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return connections
    possible = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, most))
        allowed = possible
    if allowed >= wanted:
        return connections
    room = max(1, allowed - SPARE_FILES)
    logger.warning(
        "connections_limited",
        message="The limit of open files leaves room for fewer connections than are configured.",
        connections=room,
        files=allowed,
        advice="raise the limit of open files (ulimit -Hn), or lower LOOPLEDGER_LIMITS_CONNECTIONS",
    )
    return room


def _collect_seldom() -> None:
    """Look for garbage seldom: what is here now stays for good, and neither requests nor folds leave cycles behind."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


async def _serve(settings: Settings) -> None:
    """Be the parent process until stopped."""
    started = False
    try:
        async with running(settings) as loopledger:
            started = True
            sys.stdout.write(banner(loopledger))
            sys.stdout.flush()
            try:
                await asyncio.Event().wait()
            finally:
                logger.info("stopping", message="The server is stopping.")
    finally:
        # What did not start has its error to tell, and nothing else.
        if started:
            logger.info("stopped", message="The server has stopped.")


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run until it ends, or until SIGTERM, or SIGINT or SIGHUP if not ignored; then let it clean up."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stopping = False

    def stop() -> None:
        # Once: a second signal (make passes on its own) must not cut the stopping short.
        nonlocal stopping
        if not stopping:
            stopping = True
            logger.debug("stop_requested", message="A signal asked this process to stop.")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What nohup or a shell's background job has us ignore stays ignored; SIGTERM is always meant.
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise


def banner(loopledger: Running) -> str:
    """What is running, where the data lies, and three lines to try."""
    url = loopledger.url
    return f"""
Loopledger {importlib.metadata.version("loopledger")} is running at {url}
  data      {loopledger.storage}
  on record {loopledger.head:,} events

Try it:
  curl -X POST {url}/webhooks/loopz -H 'X-LOOPZ-WEBHOOK-TOPIC: location.updated' \
-H 'X-LOOPZ-MERCHANT-ID: m-1' -d '{{"id": "l-1", "name": "My Location", "status": "ACTIVE"}}'
  curl '{url}/v1/locations/l-1?merchant_id=m-1&at_least={loopledger.head + 1}'
  curl {url}/v1/projections

Ctrl-C stops it.
"""


def refuse_exposure(settings: Settings) -> None:
    """Refuse an address that others can reach, unless every delivery is verified, or told otherwise.

    Raises ExposedError.
    """
    if settings.insecure or is_loopback(settings.host):
        return
    open_doors = [
        name
        for name in load_providers(settings.providers)
        if not make_verifier(settings, name).configured
    ]
    if open_doors:
        raise ExposedError(
            host=settings.host or "every address", providers=" and ".join(open_doors)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; gives back the exit code. Besides those of `loopledger serve`, a parent's words to a worker are taken."""
    parser = argparse.ArgumentParser(prog="server.py", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--role", choices=["http", "projecting"], help=argparse.SUPPRESS)
    parser.add_argument("--socket", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)
    return run(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger serve`; each wins over its setting."""
    parser.add_argument(
        "--insecure", action="store_true", help="listen on an address that others can reach"
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="how many processes take deliveries (1)",
    )


def run(given: argparse.Namespace) -> int:
    """Serve as `given` says; gives back the exit code."""
    role = getattr(given, "role", None)
    try:
        settings = settings_from(os.environ)
        if given.insecure:
            settings = msgspec.structs.replace(settings, insecure=True)
        if given.workers is not None:
            settings = msgspec.structs.replace(settings, workers=given.workers)
        configure_logging(settings)
        work = _work(settings, given) if role else _serve(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_stopped(work))
    except LoopledgerError as error:
        sys.stderr.write(f"loopledger: {error}\n")
        return 1
    except Exception as error:
        if not is_outage(error):
            raise
        sys.stderr.write(f"loopledger: Postgres went away ({describe(error)}); start again\n")
        return 1
    return 0


async def _answers(url: str) -> None:
    """Return once the server answers."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/healthz") as answer:
                    answer.raise_for_status()
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(LOOK_SECONDS)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def dsn_of(settings: Settings) -> str:
    """The URL of the database of a server that runs with these settings."""
    return settings.database_url or embedded_dsn(data_directory(settings.data_dir) / "socket")


async def _postgres(settings: Settings, stack: AsyncExitStack) -> tuple[str, str]:
    """The database's URL, and what to call it before people: never its password."""
    if settings.database_url is not None:
        parts = urlsplit(settings.database_url)
        return settings.database_url, f"{parts.hostname or 'local'}{parts.path} (DATABASE_URL)"
    data_dir = data_directory(settings.data_dir)
    processes = settings.workers + 1
    embedded = EmbeddedPostgres(
        data_dir,
        run_as=settings.postgres_user,
        stop_seconds=settings.limits.stop_seconds,
        max_connections=processes * (settings.limits.pool_connections + 4) + SPARE_CONNECTIONS,
    )
    await stack.enter_async_context(embedded)
    return embedded.dsn, f"{data_dir} (embedded Postgres)"


def _bound_socket(settings: Settings) -> socket.socket:
    """Take the address, without listening yet. Raises SettingsError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise SettingsError(key="host", problem=str(error), source=settings.host) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise SettingsError(
            key="port",
            problem=f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "is another Loopledger running? LOOPLEDGER_PORT chooses another",
            source="settings",
        ) from None
    return listener


if __name__ == "__main__":
    sys.exit(main())
