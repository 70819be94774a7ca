"""The command `loopledger rejections`: what was refused, why, and another try."""

import argparse
import asyncio
import os
from typing import Any

import msgspec
from rich.console import RenderableType

from commands._http import Server, add_url, reported, server_at
from commands._screen import Screen, table, this_screen, visible, written_out
from eventstore.limits import Limits
from eventstore.postgres.database import Database
from eventstore.rejections import Rejections
from runtime.wiring import settings_from
from server import dsn_of
from web.problems import NotFoundError

HELP = "what was refused, why, and another try"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger rejections`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    listed = actions.add_parser("list", help="the newest refused requests")
    listed.add_argument("--limit", type=int, default=20)
    shown = actions.add_parser("show", help="one of them, with its headers and its body")
    shown.add_argument("id", type=int)
    retried = actions.add_parser("retry", help="verify one again and put it on record, marked")
    retried.add_argument("id", type=int)
    retried.add_argument(
        "--trust", action="store_true", help="vouch for it: its credentials are not on record"
    )
    add_url(parser, listed, shown, retried)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Ask the server; gives back the exit code: 0, 1 if it refused, 2 if it does not answer.

    To vouch for a rejection is done in the database itself.
    """
    if given.action == "retry" and given.trust:
        asyncio.run(vouch(given.id, dsn_of(settings_from(os.environ))))
    return reported(screen or this_screen(), lambda: asyncio.run(_ask(given)))


async def vouch(id_: int, dsn: str) -> None:
    """Vouch for a rejection: to be able to write to the database is what entitles to it. Raises PostgresError."""
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        if not await Rejections(database, Limits()).trust(id_):
            raise NotFoundError(what=f"rejection {id_}")
    finally:
        await database.close()


async def _ask(given: argparse.Namespace) -> RenderableType:
    actions = {"list": _list, "show": _show, "retry": _retry}
    async with server_at(given.url) as server:
        return await actions[given.action](given, server)


async def _list(given: argparse.Namespace, server: Server) -> RenderableType:
    page = await server.get(f"/v1/rejections?limit={given.limit}", dict[str, Any])
    listed = table(texts=("id", "last seen", "times", "provider", "cause"), last="problem")
    for item in page["items"]:
        done = item["position"]
        listed.add_row(
            str(item["id"]),
            item["last_at"][:19],
            str(item["count"]),
            visible(item["provider"]),
            item["cause"],
            visible(item["problem"]) if done is None else f"on record at position {done}",
        )
    return listed


async def _show(given: argparse.Namespace, server: Server) -> RenderableType:
    item = await server.get(f"/v1/rejections/{given.id}", dict[str, Any])
    body = await server.ask("GET", item["body"])
    headers = item.pop("headers")
    return written_out(item, headers, body)


async def _retry(given: argparse.Namespace, server: Server) -> RenderableType:
    answer = msgspec.json.decode(await server.ask("POST", f"/v1/rejections/{given.id}/retry"))
    return f"rejection {given.id} is on record at position {answer['position']}"
