"""The parts of a server put together: database and log, HTTP, projections."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, TypeVar, cast

import msgspec
import structlog
from aiohttp import web

from eventstore.errors import PostgresError
from eventstore.fold.fingerprint import fingerprint
from eventstore.fold.quarantine import Quarantine
from eventstore.fold.registry import Registry
from eventstore.keys import Keys
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.head import Head
from eventstore.log.known_head import HeadMemory, KnownHead
from eventstore.log.partitions import PartitionKeeper
from eventstore.log.reader import Reader
from eventstore.log.relay_client import RelayingAppender
from eventstore.log.relay_server import RelayServer
from eventstore.metrics import Values
from eventstore.postgres.database import Database
from eventstore.postgres.failures import describe, is_outage
from eventstore.postgres.leader import lead
from eventstore.postgres.roles import PROJECTOR, RECEIVER, check_role, grant_privileges
from eventstore.query.events import EventLists
from eventstore.query.history import History
from eventstore.query.known_histories import KnownHistories
from eventstore.query.listing import ListReader
from eventstore.query.live_events import EventFeed
from eventstore.query.live_states import StateFeed
from eventstore.query.log_status import LogStatusReader
from eventstore.query.money import UnitsByProvider
from eventstore.query.readiness import Readiness
from eventstore.query.states import States
from eventstore.query.whole_lists import WholeLists
from eventstore.rebuild.build import Dependencies
from eventstore.rebuild.conductor import Conductor
from eventstore.rebuild.pool import BuilderPool
from eventstore.rejections import Rejections
from eventstore.tasks import cancel_all, in_background, raise_if_cancelled
from projections import load_projections
from providers import load_providers, settings_types
from providers.provider import Provider
from runtime.data_directory import own_directory
from runtime.logging import redact_from_log
from runtime.metrics.database import DatabaseValues
from runtime.metrics.exposition import MetricsReader
from runtime.metrics.process import ProcessValues, appending, building, receiving
from runtime.postgres import Urls
from runtime.relays import Relay
from runtime.secrets import read_secret
from runtime.settings import Settings, load_settings
from verification.verifier import Verification, Verifier
from web.app import make_app
from web.auth import Authenticator, LocalKey
from web.context import Context, Endpoint
from web.ingest.connections import connection_server
from web.ingest.receiver import Receiver
from web.live import LiveStreams
from web.misses import Misses

T = TypeVar("T")

logger = structlog.get_logger()

# Connections that may wait to be accepted while the loop is busy.
BACKLOG = 1024

# Seconds for which the rest of a refused request is read, so that its sender sees the answer.
LINGERING_SECONDS = 2.0

# How long a connection may be idle between two requests.
KEEPALIVE_SECONDS = 75.0

# How long a start waits for the keys, in seconds: who asks later reads them.
KEYS_SECONDS = 1.0

# Seconds between tries while Postgres is not available.
RETRY_SECONDS = 0.2

# What a builder process runs.
BUILDER = ("-m", "runtime.builder_process")


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read the settings of this process. Raises SettingsError."""
    return load_settings(environ, settings_types())


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What every role of a server works with."""

    database: Database
    appender: Appender | RelayingAppender
    reader: Reader
    head: Head
    registry: Registry


class Metrics(NamedTuple):
    """Where a process adds its own values, and what gives those of all processes."""

    process: ProcessValues
    totals: Callable[[], Awaitable[Values]]


@asynccontextmanager
async def open_parts(
    settings: Settings,
    dsn: str,
    *,
    append: bool,
    follow: bool,
    known: KnownHead | None = None,
    relay: Relay | None = None,
) -> AsyncIterator[Parts]:
    """Open the database and the log: to `append` to it, to `follow` what other processes append.

    `known` is how far the log is known to have reached.
    """
    limits = settings.limits
    # A process that only follows writes states, which can be folded again: they need not take the disk from the log.
    database = Database(dsn, pool_connections=limits.pool_connections, durable=append)
    await database.open()
    try:
        head = Head(database, limits)
        own = Appender(database.connect, limits, head.on_append)
        appender: Appender | RelayingAppender = own
        server: RelayServer | None = None
        if relay is not None and relay.through is not None:
            appender = RelayingAppender(own, relay.through, limits)
        elif relay is not None and relay.for_others is not None:
            server = RelayServer(own, relay.for_others, limits)
        try:
            await head.start(notify=append, follow=follow)
            if append:
                await appender.start(known)
            if server is not None:
                server.start()
            yield Parts(
                database=database,
                appender=appender,
                reader=Reader(database, limits),
                head=head,
                registry=Registry(database, fingerprints_of(settings)),
            )
        finally:
            if server is not None:
                await server.stop()
            await appender.stop()
            await head.stop()
    finally:
        await database.close()


@asynccontextmanager
async def serving_http(
    settings: Settings,
    parts: Parts,
    listener: socket.socket,
    metrics: Metrics,
    local: LocalKey | None,
    before_listening: Callable[[], None] = lambda: None,
) -> AsyncIterator[None]:
    """Take deliveries and answer requests. `before_listening` is called once all is there that it takes.

    `local` is the key of the commands of this machine.
    """
    context = context_of(settings, parts, metrics, local)
    receiver = Receiver(
        context.endpoints,
        parts.appender,
        context.rejections,
        settings.limits,
        settings.keep_headers,
        any_host=settings.accept_unverified,
    )
    runner = make_runner(make_app(context, receiver), settings.limits)
    await runner.setup()
    server = connection_server(
        receiver,
        cast("web.Server", runner.server),
        settings.limits,
        idle_seconds=KEEPALIVE_SECONDS,
    )
    metrics.process.add(receiving(receiver.counts, context.rejections, server, settings.limits))
    metrics.process.add(appending(parts.appender, settings.limits))
    # For questions that come once Postgres is away: metrics.
    with suppress(Exception):
        await asyncio.wait_for(context.keys.ring(), KEYS_SECONDS)
    before_listening()
    writing = asyncio.create_task(context.rejections.run(), name="rejections")
    listening: asyncio.Server | None = None
    try:
        listening = await asyncio.get_running_loop().create_server(
            server, sock=listener, backlog=BACKLOG
        )
        yield
    finally:
        if listening is not None:
            listening.close()
        # A stream goes on for as long as it may.
        await context.live.close()
        await asyncio.gather(server.close(settings.limits.drain_seconds), runner.cleanup())
        await cancel_all(writing)
        context.metrics.close()
        with suppress(Exception):
            await context.rejections.write()


def context_of(
    settings: Settings, parts: Parts, metrics: Metrics, local: LocalKey | None
) -> Context:
    """Make what the handlers of requests work with."""
    database, limits = parts.database, settings.limits
    keys = Keys(database, limits)
    authenticator = Authenticator(keys, limits, local=local, keyless=settings.answer_without_keys)
    providers = load_providers(settings.providers)
    units = units_of(providers)
    quarantine = Quarantine(database)
    states = {
        name: States(projection, database, parts.registry, limits, units)
        for name, projection in load_projections().items()
    }
    known_histories = KnownHistories(limits.history_bytes)
    readiness = Readiness(database, limits, list(states))
    return Context(
        open_metrics=settings.open_metrics,
        cors_origins=settings.cors_origins,
        limits=limits,
        keys=keys,
        authenticator=authenticator,
        appender=parts.appender,
        reader=parts.reader,
        registry=parts.registry,
        rejections=Rejections(database, limits, share=1 / settings.workers),
        endpoints={
            name: Endpoint(provider, make_verifier(settings, name))
            for name, provider in providers.items()
        },
        states=states,
        histories={
            name: History(each, quarantine, providers, database, limits, known_histories)
            for name, each in states.items()
        },
        quarantine=quarantine,
        lists=ListReader(database),
        event_lists=EventLists(database),
        whole_lists=WholeLists(database, ListReader(database), limits),
        misses=Misses(limits),
        readiness=readiness,
        live=live_streams(parts, limits, authenticator, units),
        metrics=MetricsReader(
            metrics.totals,
            DatabaseValues(
                LogStatusReader(database),
                readiness,
                parts.registry,
                lambda: parts.appender.known_head,
            ),
        ),
    )


def units_of(providers: Mapping[str, Provider]) -> UnitsByProvider:
    """What the minor units of currencies are, by provider."""
    return tuple((name, provider.minor_units) for name, provider in sorted(providers.items()))


def live_streams(
    parts: Parts, limits: Limits, authenticator: Authenticator, units: UnitsByProvider
) -> LiveStreams:
    """Make the live streams of this process."""
    reading = asyncio.Semaphore(limits.stream_reads)
    events = EventFeed(parts.database, parts.reader, parts.head, limits, reading)
    states = {
        name: StateFeed(projection, parts.database, parts.head, limits, reading, units)
        for name, projection in load_projections().items()
    }
    return LiveStreams(limits, events, states, authenticator.is_in_force)


def make_runner(app: web.Application, limits: Limits) -> web.AppRunner:
    """Make what runs an application under aiohttp's server."""
    return web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=limits.drain_seconds,
        lingering_time=LINGERING_SECONDS,
        keepalive_timeout=KEEPALIVE_SECONDS,
        # Else a body that says it is compressed would not be on record as it was sent.
        auto_decompress=False,
    )


@asynccontextmanager
async def projecting(
    settings: Settings, parts: Parts, dsn: str, values: ProcessValues | None = None
) -> AsyncIterator["asyncio.Task[None]"]:
    """Fold the log whenever this process holds the lead; gives the task. `values` tell of its builders then."""
    builders = make_builders(settings, dsn)
    if values is not None:
        values.add(building(builders.pids))
    conductor = make_conductor(settings, parts, builders)
    leading = lead(parts.database.connect, conductor.run)
    async with in_background(leading, "leadership") as task:
        yield task


@asynccontextmanager
async def keeping_partitions(owner_url: str) -> AsyncIterator[None]:
    """Make partitions of the log ahead and vacuum full ones, which is for its owner to do."""
    database = Database(owner_url, pool_connections=1)
    async with in_background(PartitionKeeper(database).run(), "partitions"):
        yield


@asynccontextmanager
async def remembering_head(settings: Settings, owner_url: str) -> AsyncIterator[HeadMemory]:
    """Remember outside the database how far the log has reached, and what is known from before."""
    memory = HeadMemory(own_directory(settings), Database(owner_url, pool_connections=1).connect)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await retry_until_available(memory.load, never)
    try:
        async with in_background(memory.run(), "known-head"):
            yield memory
    finally:
        await memory.look_at_last()


def make_builders(settings: Settings, dsn: str) -> BuilderPool:
    """Make what starts builder processes."""
    builder_settings = {"dsn": dsn, "limits": settings.limits, "providers": settings.providers}
    return BuilderPool(
        [sys.executable, *BUILDER],
        msgspec.json.encode(builder_settings),
        processes=settings.limits.rebuild_processes,
        streams=settings.limits.rebuild_streams,
    )


def make_conductor(settings: Settings, parts: Parts, builders: BuilderPool) -> Conductor:
    """Make the conductor of the projections."""
    deps = Dependencies(
        sources=load_providers(settings.providers),
        database=parts.database,
        reader=parts.reader,
        head=parts.head,
        registry=parts.registry,
        limits=settings.limits,
        builders=builders,
        rebuild_stale=settings.rebuild == "auto",
    )
    return Conductor(list(load_projections().values()), deps)


def fingerprints_of(settings: Settings) -> dict[str, str]:
    """The fingerprint of each projection, as this code folds it with these settings."""
    sources = load_providers(settings.providers)
    return {name: fingerprint(one, sources) for name, one in load_projections().items()}


class Prepared(NamedTuple):
    """What there is at a start: the position of the newest event, and whether a key was ever made."""

    head: int
    has_keys: bool


async def prepare(settings: Settings, urls: Urls) -> Prepared:
    """Set up the schema of the log, and roles, before any worker starts. Raises SettingsError.

    That is all that deliveries need. The process that projects sets its projections up by itself.
    """
    await _set_up_privileges(urls)
    async with open_parts(settings, urls.owner, append=False, follow=False) as parts:
        keys = await Keys(parts.database, settings.limits).ring()
        return Prepared(parts.head.position, keys.any)


async def _set_up_privileges(urls: Urls) -> None:
    """Set up the schema as its owner, and let the other roles do what they have to. Raises PostgresError."""
    database = Database(urls.owner, pool_connections=1)
    await database.open()
    try:
        connection = await database.connect()
        try:
            await grant_privileges(connection, apart=urls.apart)
        finally:
            connection.terminate()
    finally:
        await database.close()
    if not urls.apart:
        logger.info(
            "one_role",
            message="What takes deliveries and what folds log in as the owner of the log; docs/operations.md tells "
            "how to give each a role of its own.",
        )
        return
    for setting, url, role in (
        ("LOOPLEDGER_RECEIVING_URL", urls.receiving, RECEIVER),
        ("LOOPLEDGER_PROJECTING_URL", urls.projecting, PROJECTOR),
    ):
        connection = await Database(url, pool_connections=1).connect_or_explain(setting)
        try:
            await check_role(connection, setting, role)
        finally:
            connection.terminate()


async def retry_until_available(step: Callable[[], Awaitable[T]], end: "asyncio.Future[None]") -> T:
    """Do `step`, again and again until Postgres is available, or until `end`: then its error is raised.

    A process that ended instead would be started again after a pause that grows, and so come back long after Postgres.
    """
    while True:
        try:
            return await step()
        except Exception as error:
            raise_if_cancelled()
            cause = error.__cause__ if isinstance(error, PostgresError) else error
            if end.done() or cause is None or not is_outage(cause):
                raise
            logger.warning(
                "postgres_awaited",
                message="Waiting for Postgres before starting.",
                error=describe(cause),
            )
            await asyncio.wait([end], timeout=RETRY_SECONDS)


def make_verifier(settings: Settings, provider: str) -> Verifier:
    """Make the verifier of a provider's deliveries. Raises SettingsError."""
    section = settings.providers.get(provider)
    verification = getattr(section, "verification", None) or Verification()
    verifier = Verifier(verification, read_secret, f"{provider}.verification")
    redact_from_log(verifier.secrets)
    return verifier
