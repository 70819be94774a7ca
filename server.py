"""The server as processes. `python server.py` is `loopledger serve`.

One parent process holds Postgres and the address; under it run N processes that take deliveries and answer questions,
and one that projects.
"""

import argparse
import asyncio
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog
import uvloop

from eventstore.errors import ExposedError, ListenError, LoopledgerError, SettingsError
from eventstore.keys import digest_of, make_key
from eventstore.log.known_head import KnownHead
from eventstore.postgres.failures import is_outage
from eventstore.postgres.processes import Account, account_for
from eventstore.query.readiness import NOT_SET_UP
from providers import load_providers
from runtime.address import address_left, key_left, listening_url
from runtime.arguments import SplitOption, whole_number
from runtime.banner import banner
from runtime.data_directory import data_directory, own_directory
from runtime.failing import print_failure
from runtime.logging import configure_logging
from runtime.metrics.process import ProcessValues, read_build, restarting
from runtime.metrics.totals import Totals
from runtime.notifying import SOCKET, notify
from runtime.postgres import Urls, start_postgres
from runtime.privileges import choose_account, keeps_root_for
from runtime.relays import Relays, add_relay_arguments
from runtime.settings import Settings
from runtime.supervisor import Workers
from runtime.wiring import (
    Metrics,
    keeping_partitions,
    make_verifier,
    open_parts,
    prepare,
    projecting,
    remembering_head,
    retry_until_available,
    serving_http,
    settings_from,
)
from runtime.worker import KNOWN_HEAD, LOCAL_KEY, PROJECTING, TOLD, work
from web.access import LOCAL, Access
from web.auth import LocalKey
from web.locality import is_loopback

logger = structlog.get_logger()

# What the parent alone is told: of these a worker gets its own, as DATABASE_URL.
ROLE_URLS = frozenset({"LOOPLEDGER_RECEIVING_URL", "LOOPLEDGER_PROJECTING_URL"})

# What to do about an address that cannot be listened on.
LISTEN_REMEDIES = {
    errno.EADDRINUSE: "Is another Loopledger running? Stop it, or set another port (LOOPLEDGER_PORT).",
    errno.EADDRNOTAVAIL: "LOOPLEDGER_HOST must be an address of this machine.",
    errno.EACCES: "Ports below 1024 are reserved: set another one (LOOPLEDGER_PORT), and let a proxy listen there.",
}

# Seconds for which a start waits for its projections.
SET_UP_SECONDS = 2.0

# Seconds between checks whether the workers respond yet.
READY_POLL_SECONDS = 0.02


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A running server: its address, where its data is, the position of its newest event, and its local key.

    `has_keys`: a key had been made before it started.
    """

    url: str
    storage: str
    head: int
    has_keys: bool
    local_key: str

    def __repr__(self) -> str:
        return f"Running(url={self.url!r}, ...)"


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Run the worker processes of a server under this one, with its Postgres.

    On exit no more is accepted, what was accepted is finished, and its Postgres is stopped.
    """
    check_verification(settings)
    async with AsyncExitStack() as stack:
        # The address first, so that a port in use is reported before anything is started.
        listener = stack.enter_context(_bound_socket(settings))
        account = _worker_account(settings)
        urls, storage = await start_postgres(settings, stack, account)
        if settings.database_url is None:
            # Its supervisor restarts it, so there is no reason to give up while it is away.
            never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            found = await retry_until_available(lambda: prepare(settings, urls), never)
        else:
            found = await prepare(settings, urls)
        url = listening_url(listener)
        own = ProcessValues("parent")
        own.add(read_build)
        totals = Totals(own.read)
        stack.push_async_callback(totals.close)
        memory = await stack.enter_async_context(remembering_head(settings, urls.owner))
        relays = stack.enter_context(Relays(settings.workers, settings.limits.appenders))
        local_key = make_key()
        told = {LOCAL_KEY: digest_of(local_key).hex()}
        workers = Workers(
            _commands(settings, listener, relays, account),
            environ=lambda name: _worker_environ(settings, urls, name, memory.known) | told,
            inherit=[listener.fileno(), *relays.descriptors],
            on_start=totals.add_child,
        )
        own.add(restarting(workers.restarts))
        await stack.enter_async_context(keeping_partitions(urls.owner))
        stack.push_async_callback(workers.stop, settings.limits.drain_seconds + 1)
        stack.enter_context(key_left(own_directory(settings), url, local_key))
        await workers.start()
        await _until_ready(url)
        if settings.database_url is None:
            stack.enter_context(address_left(data_directory(settings.data_dir), url))
        yield Running(
            url=url,
            storage=storage,
            head=found.head,
            has_keys=found.has_keys,
            local_key=local_key,
        )


@asynccontextmanager
async def running_alone(settings: Settings, local_access: Access = LOCAL) -> AsyncIterator[Running]:
    """Run a whole server in this process, on the database of the settings: for tests.

    `local_access` is what its local key allows.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_bound_socket(settings))
        (dsn, *_), storage = await start_postgres(settings, stack, None)
        parts = await stack.enter_async_context(open_parts(settings, dsn, append=True, follow=True))
        await stack.enter_async_context(keeping_partitions(dsn))
        own = ProcessValues("parent")
        own.add(read_build)
        totals = Totals(own.read)
        stack.push_async_callback(totals.close)
        metrics = Metrics(own, totals.totals)
        await stack.enter_async_context(projecting(settings, parts, dsn, own))
        local_key = make_key()
        local = LocalKey(digest_of(local_key), local_access)
        await stack.enter_async_context(serving_http(settings, parts, listener, metrics, local))
        await _until_set_up(listening_url(listener))
        yield Running(
            url=listening_url(listener),
            storage=storage,
            head=parts.head.position,
            has_keys=False,
            local_key=local_key,
        )


def _commands(
    settings: Settings, listener: socket.socket, relays: Relays, account: Account
) -> dict[str, list[str]]:
    program = str(Path(__file__).resolve())
    user = [] if account is None else ["--user", account.pw_name]
    http = [program, "--role", "http", "--socket", str(listener.fileno()), *user]
    workers = {f"http-{n + 1}": [*http, *relays.arguments(n)] for n in range(settings.workers)}
    return {**workers, PROJECTING: [program, "--role", PROJECTING, *user]}


def _worker_environ(
    settings: Settings, urls: Urls, name: str, known: KnownHead | None
) -> dict[str, str]:
    """The environment of a worker: of the databases' URLs it has its own."""
    told = {} if known is None else {KNOWN_HEAD: msgspec.json.encode(known).decode()}
    return {
        **{name: value for name, value in os.environ.items() if name not in {*ROLE_URLS, SOCKET}},
        "DATABASE_URL": urls.projecting if name == PROJECTING else urls.receiving,
        "LOOPLEDGER_ACCEPT_UNVERIFIED": str(settings.accept_unverified).lower(),
        "LOOPLEDGER_ANSWER_WITHOUT_KEYS": str(settings.answer_without_keys).lower(),
        **told,
    }


def _worker_account(settings: Settings) -> Account:
    """Whom the workers run as; None is whoever we are. Raises SettingsError, PostgresError."""
    if settings.database_url is not None:
        if keeps_root_for(settings.database_url, settings.worker_user):
            return None
        return choose_account(settings.worker_user, None)
    data_dir = data_directory(settings.data_dir)
    postgres = account_for(settings.postgres_user, data_dir / "postgres")
    return choose_account(settings.worker_user, postgres, data_dir)


async def _serve(settings: Settings) -> None:
    """Run as the parent process until stopped."""
    started = False
    try:
        async with running(settings) as loopledger:
            started = True
            await _until_set_up(loopledger.url)
            text = banner(
                settings,
                url=loopledger.url,
                storage=loopledger.storage,
                head=loopledger.head,
                has_keys=loopledger.has_keys,
            )
            sys.stdout.write(text)
            sys.stdout.flush()
            notify("READY=1")
            try:
                await asyncio.Event().wait()
            finally:
                notify("STOPPING=1")
                logger.info("stopping", message="The server is stopping.")
    finally:
        # If it did not start, the error is all that there is to say.
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


def check_verification(settings: Settings) -> None:
    """See that every secret can be read. Refuse an address that others can reach, unless every delivery is verified or
    the settings say `accept_unverified`; say in the log what they leave open.

    Raises SettingsError, ExposedError.
    """  # noqa: D205 - two things that are looked at together
    unverified = [
        name
        for name in load_providers(settings.providers)
        if not make_verifier(settings, name).configured
    ]
    if settings.accept_unverified:
        logger.warning(
            "unverified_accepted",
            message="Deliveries that nothing verifies are accepted from whoever reaches this server.",
            providers=unverified,
        )
    if settings.answer_without_keys:
        logger.warning(
            "answering_without_keys",
            message="Whoever reaches this server may read states and events without a key.",
        )
    if unverified and not (settings.accept_unverified or is_loopback(settings.host)):
        raise ExposedError(
            host=settings.host or "every address", providers=" and ".join(unverified)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, and return the exit code. Also takes the arguments that the parent passes to its workers."""
    parser = argparse.ArgumentParser(prog="server.py", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--role", choices=["http", PROJECTING], help=argparse.SUPPRESS)
    parser.add_argument("--socket", type=int, help=argparse.SUPPRESS)
    add_relay_arguments(parser)
    parser.add_argument("--user", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)
    return run(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `loopledger serve`; each overrides its setting."""
    parser.add_argument(
        "--accept-unverified",
        action="store_true",
        help="accept deliveries that nothing verifies from whoever reaches the server",
    )
    parser.add_argument(
        "--answer-without-keys",
        action="store_true",
        help="let whoever reaches the server read, without a key",
    )
    parser.add_argument("--insecure", action=SplitOption, nargs=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="how many processes take deliveries (1)",
    )


def run(given: argparse.Namespace) -> int:
    """Serve as `given` says; returns the exit code."""
    role = getattr(given, "role", None)
    debug = False
    try:
        # What the parent tells a worker is no setting.
        told = TOLD if role else frozenset[str]()
        settings = settings_from({k: v for k, v in os.environ.items() if k not in told})
        if given.accept_unverified:
            settings = msgspec.structs.replace(settings, accept_unverified=True)
        if given.answer_without_keys:
            settings = msgspec.structs.replace(settings, answer_without_keys=True)
        if given.workers is not None:
            settings = msgspec.structs.replace(settings, workers=given.workers)
        debug = settings.log_level == "debug"
        configure_logging(settings)
        task = work(settings, given) if role else _serve(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_stopped(task))
    except Exception as error:
        unforeseen = not (isinstance(error, LoopledgerError) or is_outage(error))
        # A worker's traceback is for the log of its server.
        if unforeseen and (role or debug):
            raise
        print_failure(error)
        return 1
    return 0


async def _until_ready(url: str) -> None:
    """Return once the server responds."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/healthz") as response:
                    response.raise_for_status()
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(READY_POLL_SECONDS)


async def _until_set_up(url: str) -> None:
    """Return once the projections are set up, or if that takes long: whatever is tried first is to find them."""
    deadline = time.monotonic() + SET_UP_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/healthz/projections") as response:
                    problems = (await response.json()).get("problems", {})
                    if NOT_SET_UP not in problems.values():
                        return
            await asyncio.sleep(READY_POLL_SECONDS)


def _bound_socket(settings: Settings) -> socket.socket:
    """Bind the address, without listening yet. Raises SettingsError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise SettingsError(
            key="host",
            problem=f"must be an address of this machine, not {settings.host!r}: {error.strerror}",
            source=settings.sources.get("host", "the default"),
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ListenError(
            address=f"{settings.host}:{settings.port}",
            problem=error.strerror,
            remedy=LISTEN_REMEDIES.get(
                error.errno or 0, "Check LOOPLEDGER_HOST and LOOPLEDGER_PORT."
            ),
        ) from None
    return listener


if __name__ == "__main__":
    sys.exit(main())
