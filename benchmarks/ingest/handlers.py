"""What Loopledger is compared with: small servers, each as one would write it in an afternoon.

`python -m benchmarks.ingest.handlers limit|insert|eventsourcing DSN PORT`. They verify no signature and do not project;
that is in their favour.
"""

import argparse
import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
from aiohttp import web

from benchmarks.harness.bare_server import serve
from benchmarks.harness.postgres import parameters_of
from benchmarks.ingest.queries import QUERIES

PATH = "/webhooks/loopz"

# Connections to Postgres, and threads where there are any.
POOL = 20

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]


def limit(app: web.Application, _: str) -> None:
    """Read the body, answer 200: what aiohttp itself can do."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app.router.add_post(PATH, take)


def insert(app: web.Application, dsn: str) -> None:
    """One INSERT a request, through a pool."""

    async def pool(app: web.Application) -> AsyncIterator[None]:
        async with asyncpg.create_pool(dsn, min_size=POOL, max_size=POOL) as opened:
            await opened.execute(QUERIES["make_table"])
            app["pool"] = opened
            yield

    async def take(request: web.Request) -> web.Response:
        position = await request.app["pool"].fetchval(
            QUERIES["insert"],
            request.headers["X-LOOPZ-WEBHOOK-TOPIC"],
            request.headers["X-LOOPZ-MERCHANT-ID"],
            datetime.now(UTC),
            await request.read(),
        )
        return web.json_response({"position": position})

    app.cleanup_ctx.append(pool)
    app.router.add_post(PATH, take)


def eventsourcing(app: web.Application, dsn: str) -> None:
    """The recorder of the eventsourcing library, in threads since it blocks; each delivery is its own aggregate."""
    library: Any = importlib.import_module("eventsourcing.postgres")
    stored_event: Any = importlib.import_module("eventsourcing.persistence").StoredEvent
    recorder = library.PostgresApplicationRecorder(
        library.PostgresDatastore(**parameters_of(dsn), pool_size=POOL)
    )
    recorder.create_table()
    threads = ThreadPoolExecutor(POOL)

    async def close(_: web.Application) -> None:
        threads.shutdown()
        recorder.datastore.close()

    async def take(request: web.Request) -> web.Response:
        event = stored_event(
            originator_id=uuid4(),
            originator_version=1,
            topic=request.headers["X-LOOPZ-WEBHOOK-TOPIC"],
            state=await request.read(),
        )
        loop = asyncio.get_running_loop()
        (position,) = await loop.run_in_executor(threads, recorder.insert_events, [event])
        return web.json_response({"position": position})

    app.on_cleanup.append(close)
    app.router.add_post(PATH, take)


HANDLERS: dict[str, Callable[[web.Application, str], None]] = {
    "limit": limit,
    "insert": insert,
    "eventsourcing": eventsourcing,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("handler", choices=HANDLERS)
    parser.add_argument("dsn", help="the URL of a database; `limit` does not look at it")
    parser.add_argument("port", type=int)
    given = parser.parse_args(arguments)
    app = web.Application()
    HANDLERS[given.handler](app, given.dsn)
    serve(app, given.port)


if __name__ == "__main__":
    main()
