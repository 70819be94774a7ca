"""The command `loopledger rejections`: the requests that were refused, why, and how to retry them."""

import argparse
import asyncio
from typing import Any

import msgspec

from commands._database import server_database
from commands._http import ApiClient, add_url, api_client, find_server, run_reporting
from commands._screen import (
    Output,
    Screen,
    add_json,
    request_output,
    standard_screen,
    table,
    visible,
)
from eventstore.errors import LoopledgerError
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.query.cursor import Page
from eventstore.rejections import Rejection, Rejections
from runtime.arguments import whole_number
from web.api.deliveries import Acknowledgement

HELP = "list, show or retry the requests that were refused"


class ChangedError(LoopledgerError):
    """Rejection {id} is not there, or has another digest by now: look again (`loopledger rejections show {id}`)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger rejections`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    listed = actions.add_parser("list", help="list the newest refused requests")
    listed.add_argument(
        "--limit",
        type=whole_number(1),
        default=20,
        metavar="N",
        help="at most this many (%(default)s)",
    )
    shown = actions.add_parser("show", help="show one of them, with its headers and body")
    shown.add_argument("id", type=whole_number(1), help="its id, as `rejections list` shows it")
    retried = actions.add_parser(
        "retry", help="verify one again, and append it to the log if it passes"
    )
    retried.add_argument("id", type=whole_number(1), help="its id, as `rejections list` shows it")
    retried.add_argument(
        "--trust",
        metavar="DIGEST",
        help="vouch for the headers and the body with this digest, as `show` gives it: credentials are not on record",
    )
    add_url(parser, listed, shown, retried)
    add_json(listed, shown, retried)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Ask the server; gives back the exit code: 0, 1 if it refused, 2 if it does not answer.

    Vouching for a rejection is done in the database itself.
    """
    return run_reporting(
        screen or standard_screen(), lambda: asyncio.run(_run(given)), as_json=given.json
    )


async def vouch(id_: int, digest: str, database: Database) -> None:
    """Vouch for what is on record of a rejection: whoever can write to the database is entitled to.

    Raises ChangedError if it has another digest by now.
    """
    if not await Rejections(database, Limits()).trust(id_, digest):
        raise ChangedError(id=id_)


async def _run(given: argparse.Namespace) -> Output:
    actions = {"list": _list, "show": _show, "retry": _retry}
    async with api_client(find_server(given)) as client:
        if given.action == "retry" and given.trust:
            # Before anything is changed.
            await client.check_server()
            async with server_database() as database:
                await vouch(given.id, given.trust, database)
        return await actions[given.action](given, client)


async def _list(given: argparse.Namespace, client: ApiClient) -> Output:
    page = await client.get(f"/v1/rejections?limit={given.limit}", Page[Rejection, str])
    listed = table(
        texts=("id", "last seen", "times", "provider", "sender", "cause"), last="problem"
    )
    for item in page.items:
        done = item.position
        listed.add_row(
            str(item.id),
            item.last_at.isoformat()[:19],
            str(item.count),
            visible(item.provider),
            # Where nothing is verified, anybody is.
            "admitted" if item.verified else "stranger",
            item.cause,
            visible(item.problem) if done is None else f"on record at position {done}",
        )
    return Output(page, listed if page.items else "Nothing was refused.")


async def _show(given: argparse.Namespace, client: ApiClient) -> Output:
    item = await client.get(f"/v1/rejections/{given.id}", dict[str, Any])
    body = await client.read_body(item["body"])
    headers = item.pop("headers")
    return request_output(item, headers, body)


async def _retry(given: argparse.Namespace, client: ApiClient) -> Output:
    body = await client.request("POST", f"/v1/rejections/{given.id}/retry")
    position = msgspec.json.decode(body, type=Acknowledgement).position
    data = {"id": given.id, "position": position}
    return Output(data, f"rejection {given.id} is on record at position {position}")
