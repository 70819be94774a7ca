"""The command `loopledger timeline`: whether the log may grow on this server, and having it do so after a failover."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from eventstore.log.timeline import TimelineStatus, accept_timeline, read_timeline
from eventstore.postgres.database import Database
from runtime.postgres import dsn_of
from runtime.wiring import settings_from

HELP = "show or accept the timeline on which the log grows, after a replica took over"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger timeline`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    actions.add_parser("show", help="show the server's timeline, and what was accepted when")
    actions.add_parser(
        "accept",
        help="have the log go on from where it ends in this database: whatever came after is given up",
    )


def run(given: argparse.Namespace) -> int:
    """Look into the database itself; gives back the exit code. Raises SettingsError, PostgresError."""
    actions = {"show": _show, "accept": _accept}
    dsn = dsn_of(settings_from(os.environ))
    sys.stdout.write(asyncio.run(_with_database(dsn, actions[given.action])))
    return 0


async def _with_database(dsn: str, action: Callable[[Database], Awaitable[str]]) -> str:
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        return await action(database)
    finally:
        await database.close()


async def _show(database: Database) -> str:
    return _format(await read_timeline(database))


async def _accept(database: Database) -> str:
    before = await read_timeline(database)
    accepted = await accept_timeline(database)
    return (
        f"accepted timeline {accepted.timeline}, {before.accepted} before: "
        f"the log goes on after position {accepted.position}\n"
        "What is lost, as far as the servers know, is in their logs: events_lost\n"
    )


def _format(status: TimelineStatus) -> str:
    state = (
        "the log may grow"
        if status.timeline == status.accepted
        else f"accepted is {status.accepted}: every delivery is refused until `loopledger timeline accept`"
    )
    lines = [f"timeline {status.timeline}, {state}", f"head {status.head}", "accepted:"]
    lines += [
        f"  {one.accepted_at.isoformat()[:19]}  timeline {one.timeline} from position {one.position}"
        for one in status.acceptances
    ]
    return "".join(f"{line}\n" for line in lines)
