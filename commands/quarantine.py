"""The command `loopledger quarantine`: the events that a projection could not fold, and why."""

import argparse
import asyncio
from typing import Any
from urllib.parse import quote

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.text import Text

from commands._http import (
    ApiClient,
    add_url,
    api_client,
    find_server,
    projection_name,
    run_reporting,
)
from commands._screen import (
    Output,
    Screen,
    add_json,
    request_output,
    standard_screen,
    table,
    visible,
)
from eventstore.fold.quarantine import QuarantinedEvent
from eventstore.query.cursor import Page
from runtime.arguments import whole_number
from web.api.projections import ProjectionSummary

HELP = "list or show the events that could not be folded"

# The most items that a page may have (docs/api.md).
PAGE = 1000

# More columns than any terminal has.
ENDLESS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger quarantine`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    listed = actions.add_parser("list", help="list what the live generations could not fold")
    listed.add_argument("--projection", type=projection_name, help="only of this projection")
    listed.add_argument(
        "--limit",
        type=whole_number(1),
        default=100,
        metavar="N",
        help="at most this many of each projection (%(default)s)",
    )
    shown = actions.add_parser("show", help="show one of them: its error, headers and body")
    shown.add_argument("projection", type=projection_name)
    shown.add_argument("position", type=whole_number(1))
    add_url(parser, listed, shown)
    add_json(listed, shown)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 if the server refused, 2 if it did not respond."""
    return run_reporting(
        screen or standard_screen(), lambda: asyncio.run(_run(given)), as_json=given.json
    )


async def _run(given: argparse.Namespace) -> Output:
    actions = {"list": _list, "show": _show}
    async with api_client(find_server(given)) as client:
        return await actions[given.action](given, client)


async def _list(given: argparse.Namespace, client: ApiClient) -> Output:
    names = [given.projection] if given.projection else await _projections(client)
    found: list[tuple[str, QuarantinedEvent]] = []
    more_in = []
    for name in names:
        items, more = await _quarantined(client, name, given.limit)
        found += [(name, item) for item in items]
        if more:
            more_in.append(name)
    listed = [{"projection": name, **msgspec.structs.asdict(item)} for name, item in found]
    notes = [f"There are more in {name}; use --limit {10 * given.limit}" for name in more_in]
    shown = Group(_Listed(found), *notes) if found else "Nothing is in quarantine."
    return Output({"items": listed, "more_in": more_in}, shown)


class _Listed:
    """A table of events; where the terminal is too narrow for it, three lines for each."""

    def __init__(self, found: list[tuple[str, QuarantinedEvent]]) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        listed = table(texts=("projection", "position", "topic", "stream"), last="error")
        for name, item in self._found:
            facts = (item.topic, item.stream, item.error)
            listed.add_row(name, str(item.position), *map(visible, facts))
        needed = Measurement.get(console, options.update(max_width=ENDLESS), listed).maximum
        if needed <= options.max_width:
            yield listed
            return
        for name, item in self._found:
            yield Text(f"{name} {item.position}: {visible(item.stream)}", "bold", overflow="fold")
            yield Padding(Text(visible(item.topic)), (0, 0, 0, 4), expand=False)
            yield Padding(Text(visible(item.error), "red"), (0, 0, 0, 4), expand=False)


async def _projections(client: ApiClient) -> list[str]:
    return [
        each.name
        for each in (await client.get("/v1/projections", Page[ProjectionSummary, None])).items
    ]


async def _quarantined(
    client: ApiClient, projection: str, limit: int
) -> tuple[list[QuarantinedEvent], bool]:
    items: list[QuarantinedEvent] = []
    cursor = ""
    while True:
        wanted = min(PAGE, limit - len(items))
        path = f"{_path(projection)}?limit={wanted}{cursor}"
        page = await client.get(path, Page[QuarantinedEvent, str])
        items += page.items
        if page.next is None or len(items) >= limit:
            return items, page.next is not None
        cursor = f"&cursor={quote(page.next, safe='')}"


async def _show(given: argparse.Namespace, client: ApiClient) -> Output:
    item = await client.get(f"{_path(given.projection)}/{given.position}", dict[str, Any])
    event = await client.get(f"/v1/events/{given.position}", dict[str, Any])
    body = await client.read_body(f"/v1/events/{given.position}/body")
    headers = event.pop("headers")
    return request_output({"projection": given.projection, **item, **event}, headers, body)


def _path(projection: str) -> str:
    return f"/v1/projections/{quote(projection, safe='')}/quarantine"
