"""The composition root: settings, database, log, projectors, HTTP. `python server.py` is `loopledger serve`."""

import asyncio
import importlib.metadata
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
import uvloop
from aiohttp import web

from eventstore.database import Database
from eventstore.embedded import EmbeddedPostgres
from eventstore.errors import ExposedError, LoopledgerError, SettingsError
from eventstore.log import Log
from eventstore.projector import Projector
from eventstore.registry import Registry
from eventstore.settings import Settings, load_settings
from projections import load_projections
from providers import load_providers, settings_types
from web.app import make_app
from web.context import Context

logger = structlog.get_logger()

# Connections that may wait to be accepted while the loop is busy.
BACKLOG = 1024

_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A Loopledger that takes deliveries."""

    url: str
    storage: str
    context: Context


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read the settings of this process. Raises SettingsError."""
    return load_settings(environ, settings_types())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Run a Loopledger. On the way out it takes no more, finishes what it took, and stops its Postgres."""
    refuse_exposure(settings)
    providers = load_providers(settings.providers)
    projections = load_projections()
    limits = settings.limits
    async with AsyncExitStack() as stack:
        # The address first: whether it is free shows before anything is started.
        listener = stack.enter_context(_bound_socket(settings))
        dsn, storage = await _postgres(settings, stack)
        database = Database(dsn, pool_connections=limits.pool_connections)
        await database.open()
        stack.push_async_callback(database.close)
        log = Log(database, limits)
        await log.start()
        stack.push_async_callback(log.stop)
        registry = Registry(database)
        projectors = {
            name: Projector(
                projection,
                sources=providers,
                database=database,
                log=log,
                registry=registry,
                limits=limits,
            )
            for name, projection in projections.items()
        }
        await _start_projectors(projectors, stack)
        context = Context(
            limits=limits,
            database=database,
            log=log,
            registry=registry,
            providers=providers,
            projections=projections,
            projectors=projectors,
        )
        runner = web.AppRunner(
            make_app(context), access_log=None, shutdown_timeout=limits.drain_seconds
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        yield Running(url=f"http://{name}:{port}", storage=storage, context=context)


async def serve(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopping = False

    def stop() -> None:
        # Once: a second signal (make passes on its own) must not cut the stopping short.
        nonlocal stopping
        if not stopping and task is not None:
            stopping = True
            logger.info("stopping")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        async with running(settings) as loopledger:
            sys.stdout.write(banner(loopledger))
            sys.stdout.flush()
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not stopping:
            raise
    logger.info("stopped")


def banner(loopledger: Running) -> str:
    """What is running, where the data lies, and three lines to try."""
    url = loopledger.url
    return f"""
Loopledger {importlib.metadata.version("loopledger")} is running at {url}
  data      {loopledger.storage}
  on record {loopledger.context.log.head:,} events

Try it:
  curl -X POST {url}/webhooks/loopz -H 'X-LOOPZ-WEBHOOK-TOPIC: location.updated' \
-H 'X-LOOPZ-MERCHANT-ID: m-1' -d '{{"id": "l-1", "name": "My Location", "status": "ACTIVE"}}'
  curl '{url}/v1/locations/l-1?merchant_id=m-1&at_least={loopledger.context.log.head + 1}'
  curl {url}/v1/projections

Ctrl-C stops it.
"""


def refuse_exposure(settings: Settings) -> None:
    """Refuse an address that others can reach, unless told otherwise. Raises ExposedError."""
    if settings.insecure or settings.host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ExposedError(host=settings.host)


def configure_logging(settings: Settings) -> None:
    """Log to standard error: for people on a terminal, as JSON otherwise."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Never the local variables of a traceback: they hold bodies, and so codes and names.
            *([] if console else [structlog.processors.ExceptionRenderer(_TRACEBACK)]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; gives back the exit code. `--insecure` is the only argument."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        settings = settings_from(os.environ)
        if given == ["--insecure"]:
            settings = msgspec.structs.replace(settings, insecure=True)
        elif given:
            raise SettingsError(
                key=given[0],
                problem="no such argument; --insecure is the only one",
                source="server.py",
            )
        configure_logging(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except LoopledgerError as error:
        sys.stderr.write(f"loopledger: {error}\n")
        return 1
    return 0


async def _postgres(settings: Settings, stack: AsyncExitStack) -> tuple[str, str]:
    """The database's URL, and what to call it before people: never its password."""
    if settings.database_url is not None:
        parts = urlsplit(settings.database_url)
        return settings.database_url, f"{parts.hostname or 'local'}{parts.path} (DATABASE_URL)"
    data_dir = settings.data_dir.absolute()
    embedded = EmbeddedPostgres(
        data_dir, run_as=settings.postgres_user, stop_seconds=settings.limits.stop_seconds
    )
    await stack.enter_async_context(embedded)
    return embedded.dsn, f"{data_dir} (embedded Postgres)"


async def _start_projectors(
    projectors: Mapping[str, Projector[Any]], stack: AsyncExitStack
) -> None:
    for projector in projectors.values():
        await projector.set_up()
    tasks = [
        asyncio.create_task(projector.run(), name=f"projector-{name}")
        for name, projector in projectors.items()
    ]

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stack.push_async_callback(stop)


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
