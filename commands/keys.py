"""The command `loopledger keys`: who may use the API, for what, and of which merchants."""

import argparse
import asyncio
from datetime import UTC, datetime
from typing import get_args

import msgspec

from commands._http import ApiClient, add_url, api_client, find_server, run_reporting
from commands._screen import Output, Screen, add_json, standard_screen, table, visible
from eventstore.errors import LoopledgerError
from eventstore.keys import Key, KeyScope
from eventstore.query.cursor import Page
from runtime.arguments import future_time
from web.api.keys import CreatedKey, KeyRequest

HELP = "make, list or revoke the keys of the API"


class NoKeyError(LoopledgerError):
    """No key {name!r} is in force; `loopledger keys list` shows those that there are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger keys`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    created = actions.add_parser("create", help="make a key, and print it, this once")
    created.add_argument("--name", required=True, help="what it is for; the server's log names it")
    created.add_argument(
        "--scope",
        required=True,
        nargs="+",
        action="extend",
        choices=get_args(KeyScope),
        metavar="S",
        help=f"what it allows: {', '.join(get_args(KeyScope))}; several may be given",
    )
    created.add_argument(
        "--merchant",
        nargs="+",
        action="extend",
        metavar="M",
        help="show only the things of the merchants with these ids",
    )
    created.add_argument(
        "--expires",
        type=future_time,
        metavar="T",
        help="until when it counts, such as 2027-01-31 or 2027-01-31T12:00:00Z (default: for ever)",
    )
    listed = actions.add_parser("list", help="list all keys; the keys themselves are not on record")
    revoked = actions.add_parser("revoke", help="revoke a key, for good")
    revoked.add_argument("which", metavar="KEY", help="its name, or its id")
    add_url(parser, created, listed, revoked)
    add_json(created, listed, revoked)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 if the server refused, 2 if it did not respond."""
    chosen = screen or standard_screen()
    return run_reporting(chosen, lambda: asyncio.run(_run(given, chosen)), as_json=given.json)


async def _run(given: argparse.Namespace, screen: Screen) -> Output:
    async with api_client(find_server(given)) as client:
        if given.action == "create":
            return await _create(given, client, screen)
        return await (_list(client) if given.action == "list" else _revoke(given, client))


async def _create(given: argparse.Namespace, client: ApiClient, screen: Screen) -> Output:
    is_first = not await _keys(client)
    wanted = KeyRequest(
        name=given.name,
        scopes=tuple(given.scope),
        merchants=None if given.merchant is None else tuple(given.merchant),
        expires_at=given.expires,
    )
    body = await client.request("POST", "/v1/keys", body=msgspec.json.encode(wanted))
    made = msgspec.json.decode(body, type=CreatedKey)
    if not given.json:
        # Not where the key goes, which may be a variable or a file.
        screen.err.print(f"key {made.id}, {visible(made.name)}: {', '.join(made.scopes)}")
        screen.err.print("It is printed this once, and is not on record.", soft_wrap=True)
        if is_first:
            screen.err.print(
                "It is the first: from now on whoever reads needs a key, on this machine, too.",
                soft_wrap=True,
            )
    return Output(made, made.key)


async def _list(client: ApiClient) -> Output:
    keys = await _keys(client)
    now = datetime.now(UTC)
    listed = table(texts=("id", "name", "scopes", "merchants", "created", "expires"), last="status")
    for key in keys:
        listed.add_row(
            str(key.id),
            visible(key.name),
            ", ".join(key.scopes),
            "all" if key.merchants is None else visible(", ".join(key.merchants)),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            "-" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}",
            _status(key, now),
        )
    nothing = "There are no keys: whoever is on this machine may read, and nobody else."
    return Output({"items": keys}, listed if keys else nothing)


async def _revoke(given: argparse.Namespace, client: ApiClient) -> Output:
    in_force = [key for key in await _keys(client) if key.revoked_at is None]
    found = [key for key in in_force if key.name == given.which] or [
        key for key in in_force if str(key.id) == given.which
    ]
    if not found:
        raise NoKeyError(name=given.which)
    body = await client.request("POST", f"/v1/keys/{found[0].id}/revoke")
    revoked = msgspec.json.decode(body, type=Key)
    return Output(revoked, f"key {revoked.id}, {revoked.name}, is revoked")


async def _keys(client: ApiClient) -> list[Key]:
    return list((await client.get("/v1/keys", Page[Key, None])).items)


def _status(key: Key, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "in force"
