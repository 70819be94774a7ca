"""The command `loopledger rejections`: the requests that were refused, why, and how to retry them."""

import argparse
import asyncio
import os
from typing import Any

import msgspec
from rich.console import RenderableType

from commands._http import ApiClient, add_url, api_client, find_server, run_reporting
from commands._screen import Screen, format_request, standard_screen, table, visible
from eventstore.errors import LoopledgerError, NotFoundError, PostgresError
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.postgres.failures import is_outage
from eventstore.query.cursor import Page
from eventstore.rejections import Rejection, Rejections
from runtime.arguments import whole_number
from runtime.data_directory import data_directory
from runtime.postgres import dsn_of
from runtime.wiring import settings_from
from web.api.deliveries import Acknowledgement

HELP = "list, show or retry the requests that were refused"


class NoPostgresError(LoopledgerError):
    """No embedded Postgres runs at {directory}. Start the server; or, if it keeps its data elsewhere, set
    LOOPLEDGER_DATA_DIR or DATABASE_URL as it has them.
    """  # noqa: D205 - one message


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
    shown.add_argument("id", type=whole_number(1), help="as the list has it")
    retried = actions.add_parser(
        "retry", help="verify one again, and append it to the log if it passes"
    )
    retried.add_argument("id", type=whole_number(1), help="as the list has it")
    retried.add_argument(
        "--trust",
        action="store_true",
        help="append it without verification: its credentials are not on record, so you vouch for it",
    )
    add_url(parser, listed, shown, retried)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Ask the server; gives back the exit code: 0, 1 if it refused, 2 if it does not answer.

    Vouching for a rejection is done in the database itself. Raises SettingsError, NoPostgresError, PostgresError.
    """
    if given.action == "retry" and given.trust:
        settings = settings_from(os.environ)
        try:
            asyncio.run(vouch(given.id, dsn_of(settings)))
        except PostgresError as error:
            cause = error.__cause__
            if settings.database_url is not None or cause is None or not is_outage(cause):
                raise
            raise NoPostgresError(directory=data_directory(settings.data_dir)) from None
    return run_reporting(screen or standard_screen(), lambda: asyncio.run(_run(given)))


async def vouch(id_: int, dsn: str) -> None:
    """Vouch for a rejection: whoever can write to the database is entitled to. Raises PostgresError."""
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        if not await Rejections(database, Limits()).trust(id_):
            raise NotFoundError(what=f"rejection {id_}")
    finally:
        await database.close()


async def _run(given: argparse.Namespace) -> RenderableType:
    actions = {"list": _list, "show": _show, "retry": _retry}
    async with api_client(find_server(given)) as client:
        return await actions[given.action](given, client)


async def _list(given: argparse.Namespace, client: ApiClient) -> RenderableType:
    page = await client.get(f"/v1/rejections?limit={given.limit}", Page[Rejection, int])
    listed = table(texts=("id", "last seen", "times", "provider", "cause"), last="problem")
    for item in page.items:
        done = item.position
        listed.add_row(
            str(item.id),
            item.last_at.isoformat()[:19],
            str(item.count),
            visible(item.provider),
            item.cause,
            visible(item.problem) if done is None else f"on record at position {done}",
        )
    return listed


async def _show(given: argparse.Namespace, client: ApiClient) -> RenderableType:
    item = await client.get(f"/v1/rejections/{given.id}", dict[str, Any])
    body = await client.request("GET", item["body"])
    headers = item.pop("headers")
    return format_request(item, headers, body)


async def _retry(given: argparse.Namespace, client: ApiClient) -> RenderableType:
    body = await client.request("POST", f"/v1/rejections/{given.id}/retry")
    position = msgspec.json.decode(body, type=Acknowledgement).position
    return f"rejection {given.id} is on record at position {position}"
