"""A builder process: builds the ranges of a new generation that it is told on standard input.

It is told its settings, its job, then one range a line; what it says is in eventstore/rebuild/pool.py.
"""

import asyncio
import gc
import os
import sys
from typing import Any

import msgspec
import uvloop

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.postgres.failures import describe, is_transient
from eventstore.rebuild.builder import Builder, Range, TooManyStreamsError
from eventstore.rebuild.pool import Done, Failed, Job, Reached, Report, TooMany
from projections import load_projections
from providers import load_providers, settings_types

# A rebuild yields to those that take deliveries, and to the live fold.
NICENESS = 10


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """What every builder has to know: the database's URL, limits, and each provider's section of the settings."""

    dsn: str
    limits: Limits
    providers: dict[str, msgspec.Raw]


async def build(lines: asyncio.StreamReader) -> None:
    """Build what the lines ask for, until they end."""
    greeting = msgspec.json.decode(await lines.readline(), type=Greeting)
    job = msgspec.json.decode(await lines.readline(), type=Job)
    types = settings_types()
    settings: dict[str, Any] = {
        name: msgspec.json.decode(section, type=types[name])
        for name, section in greeting.providers.items()
    }
    builder = Builder(
        load_projections()[job.projection],
        sources=load_providers(settings),
        generation=job.generation,
        target=job.target,
        limits=greeting.limits,
    )
    connect = Database(greeting.dsn, pool_connections=1).connect
    while line := await lines.readline():
        part = msgspec.json.decode(line, type=Range)
        try:
            built = await builder.build(connect, part, lambda position: say(Reached(position)))
        except TooManyStreamsError as error:
            say(TooMany(error.parts))
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            say(Failed(describe(error), is_transient(error)))
        else:
            say(Done(built))


def say(report: Report) -> None:
    """Say one thing to who asked."""
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    """Be a builder for as long as standard input is open, and not a moment longer."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    working = asyncio.ensure_future(build(lines))
    gone = asyncio.ensure_future(_until_gone(lines))
    await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
    for task in (working, gone):
        task.cancel()
    error, _ = await asyncio.gather(working, gone, return_exceptions=True)
    if isinstance(error, Exception):
        say(Failed(describe(error), is_transient(error)))


async def _until_gone(lines: asyncio.StreamReader) -> None:
    """Return when who asked is gone: nobody would hear what comes of it."""
    while not lines.at_eof():  # noqa: ASYNC110 - a stream tells only who reads
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    os.nice(NICENESS)
    # States live until they are written, and a fold makes no cycles: there is nothing to collect.
    gc.disable()
    uvloop.run(main())
