"""A worker: a process that takes deliveries and answers questions, or the one that projects, under a parent process."""

import argparse
import asyncio
import os
import socket
from contextlib import AsyncExitStack

import msgspec

from eventstore.errors import SettingsError
from eventstore.log.known_head import KnownHead
from eventstore.postgres.roles import with_password
from eventstore.tasks import in_background
from runtime.metrics.process import ProcessValues
from runtime.metrics.totals import Reporter
from runtime.privileges import drop_privileges
from runtime.process import allow_connections, collect_garbage_seldom
from runtime.relays import inherited_relay
from runtime.settings import Settings
from runtime.supervisor import parent_gone
from runtime.wiring import Metrics, open_parts, projecting, retry_until_available, serving_http
from web.auth import LocalKey

# The name of the process that projects, and of its role.
PROJECTING = "projecting"

# How a worker is told how far the log is known to have reached.
KNOWN_HEAD = "LOOPLEDGER_KNOWN_HEAD"

# How a worker is told the SHA-256 of the local key.
LOCAL_KEY = "LOOPLEDGER_LOCAL_KEY_SHA256"

# What the parent tells a worker, beside its settings.
TOLD = frozenset({KNOWN_HEAD, LOCAL_KEY})

# How much the projecting process yields to the processes that take deliveries.
PROJECTING_NICENESS = 5


async def work(settings: Settings, given: argparse.Namespace) -> None:
    """Run as a worker until the parent process stops it or is gone."""
    if settings.database_url is None:
        raise SettingsError(key="DATABASE_URL", problem="is missing", source="the parent process")
    http = given.role == "http"
    async with AsyncExitStack() as stack:
        end = asyncio.ensure_future(parent_gone(given.lifeline))
        stack.callback(end.cancel)
        own = ProcessValues(given.name)
        reporter = Reporter(socket.socket(fileno=given.channel), own.read)
        await stack.enter_async_context(in_background(reporter.run(), "metrics"))
        # Now, because who we become may not read it.
        dsn = with_password(settings.database_url)
        relay = inherited_relay(given)
        parts = await retry_until_available(
            lambda: stack.enter_async_context(
                open_parts(
                    settings,
                    dsn,
                    append=http,
                    follow=not http,
                    known=_known_head(),
                    relay=relay,
                )
            ),
            end,
        )
        if http:
            listener = socket.socket(fileno=given.socket)
            limits = msgspec.structs.replace(
                settings.limits, connections=allow_connections(settings.limits.connections)
            )
            settings = msgspec.structs.replace(settings, limits=limits)
            await stack.enter_async_context(
                serving_http(
                    settings,
                    parts,
                    listener,
                    Metrics(own, reporter.totals),
                    _local_key(),
                    lambda: _cease_to_be_root(given),
                )
            )
            collect_garbage_seldom()
            await end
        else:
            # Deliveries that wait for their 200 come first; a fold can catch up.
            os.nice(PROJECTING_NICENESS)
            _cease_to_be_root(given)
            leading = await retry_until_available(
                lambda: stack.enter_async_context(projecting(settings, parts, dsn, own)), end
            )
            collect_garbage_seldom()
            await asyncio.wait([end, leading], return_when=asyncio.FIRST_COMPLETED)
            if leading.done():
                # An unexpected error: the parent restarts this process.
                leading.result()


def _known_head() -> KnownHead | None:
    told = os.environ.get(KNOWN_HEAD)
    return None if told is None else msgspec.json.decode(told, type=KnownHead)


def _local_key() -> LocalKey | None:
    told = os.environ.get(LOCAL_KEY)
    return None if told is None else LocalKey(bytes.fromhex(told))


def _cease_to_be_root(given: argparse.Namespace) -> None:
    if given.user is not None:
        drop_privileges(given.user)
