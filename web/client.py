"""Commands that ask a running server: rejections, and an example delivery to test one's settings with."""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from eventstore.database import Database
from eventstore.limits import Limits
from eventstore.rejections import Rejections
from eventstore.settings import Settings
from verification.keyring import Reader
from verification.signing import sign
from verification.verifier import Verification
from web.problems import NotFoundError

# Columns of a line that no terminal limits.
WIDE = 200

DEFAULT_URL = "http://127.0.0.1:8080"

# What each provider's documentation shows, and the headers that it sends besides.
EXAMPLES: dict[str, tuple[dict[str, str], dict[str, object]]] = {
    "loopz": (
        {
            "X-LOOPZ-WEBHOOK-TOPIC": "location.updated",
            "X-LOOPZ-MERCHANT-ID": "m-1",
            "X-LOOPZ-PROGRAM-ID": "p-1",
            "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID": "s-1",
        },
        {
            "id": "72b8ebd8-ea23-44a5-b8d1-b727d80ecd1a",
            "name": "My Location",
            "status": "ACTIVE",
            "type": "PHYSICAL",
        },
    ),
    "fitbank": (
        {},
        {
            "Method": "UpdatePurchaseClosedLoopStatusMongo",
            "BusinessUnitId": 66,
            "Status": "CanBePreAuthorized",
            "Date": "2024-08-19T18:59:15.403415-03:00",
            "TotalValue": "20.00",
            "TransactionIdentifier": "TRA8ca7fe5d-99ce-4071-aa6c-0cfb23ee6060TRA",
        },
    ),
}


def add_sign_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger sign`."""
    parser.add_argument("provider", choices=sorted(EXAMPLES))
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server ({DEFAULT_URL})")
    parser.add_argument(
        "--body", metavar="FILE", type=argparse.FileType("rb"), help="a body of your own"
    )


def run_sign(given: argparse.Namespace, settings: Settings, secrets: Reader) -> int:
    """Print a curl line whose delivery passes the verification of these settings. Raises UnsignableError."""
    headers, example = EXAMPLES[given.provider]
    body = given.body.read() if given.body else msgspec.json.encode(example)
    verification = getattr(settings.providers.get(given.provider), "verification", Verification())
    path, signed = sign(
        verification, secrets, given.provider, body, datetime.now(UTC), f"msg_{uuid4().hex}"
    )
    words = ["curl", "-i", given.url.rstrip("/") + path, "-H", "Content-Type: application/json"]
    for name, value in {**headers, **signed}.items():
        words += ["-H", f"{name}: {value}"]
    data = f"@{given.body.name}" if given.body else body.decode()
    Console(soft_wrap=True, highlight=False, markup=False).print(
        shlex.join([*words, "--data-binary", data])
    )
    return 0


def add_rejections_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger rejections`."""
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server ({DEFAULT_URL})")
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


async def vouch(id_: int, dsn: str) -> None:
    """Vouch for a rejection: to be able to write to the database is what entitles to it. Raises PostgresError."""
    database = Database(dsn, pool_connections=1)
    await database.open()
    try:
        if not await Rejections(database, Limits()).trust(id_):
            raise NotFoundError(what=f"rejection {id_}")
    finally:
        await database.close()


def run_rejections(given: argparse.Namespace) -> int:
    """Ask the server; gives back 0, 1 if it refused, 2 if it does not answer."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDE)
    actions: dict[str, Callable[[argparse.Namespace, _Server], Any]] = {
        "list": _list,
        "show": _show,
        "retry": _retry,
    }
    try:
        output = asyncio.run(_ask(given, actions[given.action]))
    except _Refused as refused:
        console.print(f"loopledger: {refused}")
        return 1
    except (aiohttp.ClientError, OSError) as error:
        console.print(
            f"loopledger: no server answers at {given.url} ({error}); start it or give --url"
        )
        return 2
    console.print(output)
    return 0


class _Refused(Exception):  # noqa: N818 - what the server said
    """The server's own words."""


class _Server:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, method: str, path: str) -> bytes:
        async with self._session.request(method, path) as answer:
            body = await answer.read()
            if not answer.ok:
                raise _Refused(msgspec.json.decode(body)["detail"])
            return body


async def _ask(
    given: argparse.Namespace, action: Callable[[argparse.Namespace, _Server], Any]
) -> Any:  # noqa: ANN401
    async with aiohttp.ClientSession(given.url) as session:
        return await action(given, _Server(session))


async def _list(given: argparse.Namespace, server: _Server) -> Table:
    page = msgspec.json.decode(await server.ask("GET", f"/v1/rejections?limit={given.limit}"))
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "last seen", "times", "provider", "cause"):
        table.add_column(heading, no_wrap=True)
    table.add_column("problem")
    for item in page["items"]:
        done = item["position"]
        table.add_row(
            str(item["id"]),
            item["last_at"][:19],
            str(item["count"]),
            item["provider"],
            item["cause"],
            item["problem"] if done is None else f"on record at position {done}",
        )
    return table


async def _show(given: argparse.Namespace, server: _Server) -> str:
    item = msgspec.json.decode(await server.ask("GET", f"/v1/rejections/{given.id}"))
    body = await server.ask("GET", item["body"])
    headers = "".join(f"  {name}: {value}\n" for name, value in item.pop("headers"))
    facts = "".join(f"{name}: {value}\n" for name, value in item.items())
    return f"{facts}headers:\n{headers}\n{body.decode('utf-8', 'backslashreplace')}"


async def _retry(given: argparse.Namespace, server: _Server) -> str:
    answer = await server.ask("POST", f"/v1/rejections/{given.id}/retry")
    return (
        f"rejection {given.id} is on record at position {msgspec.json.decode(answer)['position']}"
    )
