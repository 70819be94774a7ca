"""The command `loopledger failover`: whether the log may grow on this server, and having it do so after a failover."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from commands._database import server_database
from commands._http import run_reporting
from commands._screen import Output, Screen, add_json, standard_screen
from eventstore.errors import LoopledgerError
from eventstore.log.failover import FailoverStatus, accept_timeline, read_failover
from eventstore.postgres.database import Database


class NothingToAcceptError(LoopledgerError):
    """Timeline {timeline} is accepted already: there is nothing to accept. If deliveries are refused because the log
    ends before a position that the servers know of (`log_behind`), give up what came after position {head} with
    `loopledger failover accept --behind`.
    """  # noqa: D205 - one message


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
    accepted.add_argument(
        "--behind",
        action="store_true",
        help="even if the timeline is accepted: the log ends before what its servers know, and that is given up",
    )
    add_json(shown, accepted)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Look into the database itself; gives back the exit code."""
    action = _show if given.action == "show" else partial(_accept, behind=given.behind)
    return run_reporting(
        screen or standard_screen(),
        lambda: asyncio.run(_with_database(action)),
        as_json=given.json,
    )


async def _with_database(action: Callable[[Database], Awaitable[Output]]) -> Output:
    async with server_database() as database:
        return await action(database)


async def _show(database: Database) -> Output:
    status = await read_failover(database)
    return Output(status, _format(status))


async def _accept(database: Database, *, behind: bool) -> Output:
    before = await read_failover(database)
    if before.timeline == before.accepted and not behind:
        raise NothingToAcceptError(timeline=before.timeline, head=before.head)
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
