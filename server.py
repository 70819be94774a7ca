"""The composition root: settings, database, log, projectors, HTTP. `python server.py` is `loopledger serve`.

One parent process holds Postgres and the address; under it run N processes that take deliveries and answer questions,
and one that projects.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
import uvloop
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from eventstore.database import Database
from eventstore.embedded import EmbeddedPostgres, embedded_dsn
from eventstore.errors import ExposedError, LoopledgerError, SettingsError
from eventstore.leadership import lead
from eventstore.log import Log
from eventstore.projector import Projector
from eventstore.registry import Registry
from eventstore.rejections import Rejections
from eventstore.settings import Settings, is_loopback, load_settings
from projections import load_projections
from providers import load_providers, settings_types
from verification.keyring import Secret
from verification.verifier import Verification, Verifier
from web.app import make_app
from web.context import Context, Door
from web.ingest import Ingest
from workers import Workers, parent_gone

logger = structlog.get_logger()

# Connections that may wait to be accepted while the loop is busy.
BACKLOG = 1024

# Seconds for which the rest of a refused request is read, so that its sender sees the answer.
LINGERING_SECONDS = 2.0

# How long a connection may be idle between two requests.
KEEPALIVE_SECONDS = 75.0

# Connections of Postgres for people and their tools.
SPARE_CONNECTIONS = 20

# New objects, less those gone, until the collector looks.
GARBAGE_THRESHOLD = 50_000

# How much the projecting process yields to those that take deliveries.
PROJECTING_NICENESS = 5

# Seconds between looks at whether the workers answer yet.
LOOK_SECONDS = 0.02

_TRACEBACK = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A Loopledger that takes deliveries."""

    url: str
    storage: str
    head: int


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read the settings of this process. Raises SettingsError."""
    return load_settings(environ, settings_types())


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
        head = await _prepare(settings, dsn)
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
        parts = await stack.enter_async_context(_open(settings, dsn, append=True, follow=True))
        await stack.enter_async_context(_projecting(settings, parts))
        await stack.enter_async_context(_answering(settings, parts, listener))
        yield Running(url=_url(listener), storage=storage, head=parts.log.head)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What every role works with."""

    database: Database
    log: Log
    registry: Registry


@asynccontextmanager
async def _open(
    settings: Settings, dsn: str, *, append: bool, follow: bool
) -> AsyncIterator[Parts]:
    limits = settings.limits
    database = Database(dsn, pool_connections=limits.pool_connections)
    await database.open()
    try:
        log = Log(database, limits)
        await log.start(append=append, follow=follow)
        try:
            yield Parts(database=database, log=log, registry=Registry(database))
        finally:
            await log.stop()
    finally:
        await database.close()


@asynccontextmanager
async def _answering(
    settings: Settings, parts: Parts, listener: socket.socket
) -> AsyncIterator[None]:
    """Take deliveries and answer questions."""
    providers = load_providers(settings.providers)
    context = Context(
        api_for_all=settings.insecure,
        limits=settings.limits,
        database=parts.database,
        log=parts.log,
        registry=parts.registry,
        rejections=Rejections(parts.database, settings.limits),
        doors={
            name: Door(provider, verifier_of(settings, name))
            for name, provider in providers.items()
        },
        providers=providers,
        projections=load_projections(),
    )
    runner = web.AppRunner(
        make_app(context),
        access_log=None,
        shutdown_timeout=settings.limits.drain_seconds,
        lingering_time=LINGERING_SECONDS,
        keepalive_timeout=KEEPALIVE_SECONDS,
        # Else a body that says it is compressed would not be on record as it was sent.
        auto_decompress=False,
    )
    await runner.setup()
    if (http := runner.server) is not None:
        http.request_handler = Ingest(context).before(http.request_handler)  # type: ignore[assignment]
    writing = asyncio.create_task(context.rejections.run(), name="rejections")
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        with suppress(Exception):
            await context.rejections.write()


@asynccontextmanager
async def _projecting(settings: Settings, parts: Parts) -> AsyncIterator["asyncio.Task[None]"]:
    """Fold the log, whenever this process is the one to do it; gives the task, which only an error ends."""
    projectors = _projectors(settings, parts)
    for projector in projectors:
        await projector.set_up()

    async def project() -> None:
        async with asyncio.TaskGroup() as group:
            for projector in projectors:
                group.create_task(projector.run(), name=f"projector-{projector.projection.name}")

    leading = asyncio.create_task(lead(parts.database.connect, project), name="leadership")
    try:
        yield leading
    finally:
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


def _projectors(settings: Settings, parts: Parts) -> list[Projector[Any]]:
    providers = load_providers(settings.providers)
    return [
        Projector(
            projection,
            sources=providers,
            database=parts.database,
            log=parts.log,
            registry=parts.registry,
            limits=settings.limits,
        )
        for projection in load_projections().values()
    ]


async def _prepare(settings: Settings, dsn: str) -> int:
    """Set the schema up and enter the projections, so that no worker has to wait; gives back the head."""
    for name in load_providers(settings.providers):
        verifier_of(settings, name)
    async with _open(settings, dsn, append=False, follow=False) as parts:
        for projector in _projectors(settings, parts):
            await projector.set_up()
        return parts.log.head


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
        parts = await stack.enter_async_context(
            _open(settings, settings.database_url, append=http, follow=not http)
        )
        end = asyncio.ensure_future(parent_gone(given.lifeline))
        stack.callback(end.cancel)
        if http:
            listener = socket.socket(fileno=given.socket)
            await stack.enter_async_context(_answering(settings, parts, listener))
            # What is here now stays for good, and a request leaves no cycles behind: look for garbage seldom.
            gc.freeze()
            gc.set_threshold(GARBAGE_THRESHOLD)
            await end
        else:
            # Who waits for a 200 comes first: a fold can be made up for.
            os.nice(PROJECTING_NICENESS)
            leading = await stack.enter_async_context(_projecting(settings, parts))
            await asyncio.wait([end, leading], return_when=asyncio.FIRST_COMPLETED)
            if leading.done():
                # An error that nobody foresaw: the parent starts this process afresh.
                leading.result()


async def _serve(settings: Settings) -> None:
    """Be the parent, until stopped."""
    async with running(settings) as loopledger:
        sys.stdout.write(banner(loopledger))
        sys.stdout.flush()
        await asyncio.Event().wait()


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run until it ends, or until SIGINT, SIGTERM or SIGHUP; then let it clean up."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stopping = False

    def stop() -> None:
        # Once: a second signal (make passes on its own) must not cut the stopping short.
        nonlocal stopping
        if not stopping:
            stopping = True
            logger.debug("stopping")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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


def verifier_of(settings: Settings, provider: str) -> Verifier:
    """Make what verifies the deliveries of a provider. Raises SettingsError."""
    section = settings.providers.get(provider)
    verification = getattr(section, "verification", None) or Verification()
    return Verifier(verification, read_secret, f"{provider}.verification")


def read_secret(secret: Secret) -> bytes:
    """Read a secret from the environment or a file. Raises SettingsError, without the secret."""
    try:
        if secret.env is not None:
            return os.environb[secret.env.encode()]
        return Path(secret.file or "").read_bytes()
    except KeyError:
        problem = "is not set"
    except OSError as error:
        problem = error.strerror or type(error).__name__
    raise SettingsError(key="a secret", problem=problem, source=secret.source)


def refuse_exposure(settings: Settings) -> None:
    """Refuse an address that others can reach, unless every delivery is verified, or told otherwise.

    Raises ExposedError.
    """
    if settings.insecure or is_loopback(settings.host):
        return
    open_doors = [
        name
        for name in load_providers(settings.providers)
        if not verifier_of(settings, name).configured
    ]
    if open_doors:
        raise ExposedError(
            host=settings.host or "every address", providers=" and ".join(open_doors)
        )


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
    # What is no HTTP is quoted there, secrets and all, as often as anybody likes.
    logging.getLogger("aiohttp.server").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
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
        "--workers", type=int, metavar="N", help="how many processes take deliveries (1)"
    )


def run(given: argparse.Namespace) -> int:
    """Serve as `given` says; gives back the exit code."""
    role = getattr(given, "role", None)
    try:
        settings = settings_from(os.environ)
        if given.insecure:
            settings = msgspec.structs.replace(settings, insecure=True)
        if given.workers is not None:
            if given.workers < 1:
                raise SettingsError(
                    key="--workers", problem="must be at least 1", source="arguments"
                )
            settings = msgspec.structs.replace(settings, workers=given.workers)
        configure_logging(settings)
        work = _work(settings, given) if role else _serve(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_stopped(work))
    except LoopledgerError as error:
        sys.stderr.write(f"loopledger: {error}\n")
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
    return settings.database_url or embedded_dsn(settings.data_dir.absolute() / "socket")


async def _postgres(settings: Settings, stack: AsyncExitStack) -> tuple[str, str]:
    """The database's URL, and what to call it before people: never its password."""
    if settings.database_url is not None:
        parts = urlsplit(settings.database_url)
        return settings.database_url, f"{parts.hostname or 'local'}{parts.path} (DATABASE_URL)"
    data_dir = settings.data_dir.absolute()
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
