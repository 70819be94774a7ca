"""What a builder process does: builds the ranges of a new generation that it reads from standard input.

What it reads and what it writes is in eventstore/rebuild/messages.py.
"""

import asyncio
import gc
import os
import sys
from typing import Any

import msgspec
import uvloop

from eventstore.postgres.database import Database
from eventstore.postgres.failures import describe, is_transient
from eventstore.rebuild.builder import Builder, TooManyStreamsError
from eventstore.rebuild.messages import (
    BuilderSettings,
    Done,
    Failed,
    Job,
    Range,
    Reached,
    Report,
    TooMany,
)
from eventstore.tasks import cancel_all
from projections import load_projections
from providers import load_providers, settings_types

# A rebuild yields to those that take deliveries, and to the live fold.
NICENESS = 10


def make_builder(settings: BuilderSettings, job: Job) -> Builder[Any]:
    """Make what builds the ranges of a job."""
    types = settings_types()
    sections: dict[str, Any] = {
        name: msgspec.json.decode(section, type=types[name])
        for name, section in settings.providers.items()
    }
    return Builder(
        load_projections()[job.projection],
        sources=load_providers(sections),
        generation=job.generation,
        target=job.target,
        limits=settings.limits,
    )


async def serve(lines: asyncio.StreamReader) -> None:
    """Build each range that is asked for, until the lines end."""
    settings = msgspec.json.decode(await lines.readline(), type=BuilderSettings)
    job = msgspec.json.decode(await lines.readline(), type=Job)
    builder = make_builder(settings, job)
    connect = Database(settings.dsn, pool_connections=1).connect
    while line := await lines.readline():
        range_ = msgspec.json.decode(line, type=Range)
        try:
            counts = await builder.build_range(connect, range_, lambda n: report(Reached(n)))
        except TooManyStreamsError as error:
            report(TooMany(error.parts))
        except Exception as error:  # noqa: BLE001 - the server decides what to do about it
            report(Failed(describe(error), is_transient(error)))
        else:
            report(Done(counts))


def report(message: Report) -> None:
    """Write a line to the server."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    """Serve for as long as standard input is open."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    serving = asyncio.ensure_future(serve(lines))
    closed = asyncio.ensure_future(_until_closed(lines))
    await asyncio.wait([serving, closed], return_when=asyncio.FIRST_COMPLETED)
    await cancel_all(serving, closed)
    if not serving.cancelled() and (error := serving.exception()) is not None:
        report(Failed(describe(error), is_transient(error)))


async def _until_closed(lines: asyncio.StreamReader) -> None:
    """Return when standard input is closed: the server is gone, and nobody would read a report."""
    while not lines.at_eof():  # noqa: ASYNC110 - a stream tells only who reads
        await asyncio.sleep(0.2)


def start() -> None:
    """Be a builder process."""
    os.nice(NICENESS)
    # States live until they are written, and a fold makes no cycles: there is nothing to collect.
    gc.disable()
    uvloop.run(main())
