"""The command `loopledger failover`: whether the log may grow on this server, and having it do so after a failover."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from commands._database import server_database
from commands._http import run_reporting
from commands._screen import Output, Screen, add_json, standard_screen
from eventstore.log.failover import FailoverStatus, accept_timeline, read_failover
from eventstore.postgres.database import Database

HELP = "show where the log may grow, or have it go on after a replica took over"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger failover`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    shown = actions.add_parser(
        "show", help="show the server's timeline, and what was accepted when"
    )
    accepted = actions.add_parser(
        "accept",
        help="let the log continue from its head in this database; whatever came after that is given up",
    )
    add_json(shown, accepted)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Look into the database itself; gives back the exit code."""
    actions = {"show": _show, "accept": _accept}
    return run_reporting(
        screen or standard_screen(),
        lambda: asyncio.run(_with_database(actions[given.action])),
        as_json=given.json,
    )


async def _with_database(action: Callable[[Database], Awaitable[Output]]) -> Output:
    async with server_database() as database:
        return await action(database)


async def _show(database: Database) -> Output:
    status = await read_failover(database)
    return Output(status, _format(status))


async def _accept(database: Database) -> Output:
    before = await read_failover(database)
    accepted = await accept_timeline(database)
    earlier = "as before" if before.accepted == accepted.timeline else f"before: {before.accepted}"
    text = (
        f"Timeline {accepted.timeline} is accepted ({earlier}); the log goes on after position {accepted.position}.\n"
        "What is lost, as far as the servers know, is in their logs (events_lost)."
    )
    return Output({"accepted": accepted, "before": before.accepted}, text)


def _format(status: FailoverStatus) -> str:
    state = (
        "the log may grow"
        if status.timeline == status.accepted
        else f"accepted is {status.accepted}: every delivery is refused until `loopledger failover accept`"
    )
    lines = [f"timeline {status.timeline}, {state}", f"head {status.head}", "accepted:"]
    lines += [
        f"  {one.accepted_at.isoformat()[:19]}  timeline {one.timeline} from position {one.position}"
        for one in status.acceptances
    ]
    return "\n".join(lines)
