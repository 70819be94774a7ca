"""The command `loopledger quarantine`: the events that a projection could not fold, and why."""

import argparse
import asyncio
from typing import Any
from urllib.parse import quote

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.text import Text

from commands._answers import Quarantined, QuarantinePage, Standings
from commands._http import Server, add_url, projection_name, reported, server_at
from commands._screen import Screen, table, this_screen, visible, written_out

HELP = "the events that could not be folded, and why"

# The most that a page may have (docs/api.md).
PAGE = 1000

# More columns than any terminal has.
ENDLESS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger quarantine`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    listed = actions.add_parser("list", help="what the live generations could not fold")
    listed.add_argument("--projection", type=projection_name, help="of this projection only")
    listed.add_argument(
        "--limit", type=int, default=100, help="at most so many of each projection (100)"
    )
    shown = actions.add_parser("show", help="one of them: its error, its headers and its body")
    shown.add_argument("projection", type=projection_name)
    shown.add_argument("position", type=int)
    add_url(parser, listed, shown)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Ask the server; gives back the exit code: 0, 1 if it refused, 2 if it does not answer."""
    return reported(screen or this_screen(), lambda: asyncio.run(_ask(given)))


async def _ask(given: argparse.Namespace) -> RenderableType:
    actions = {"list": _list, "show": _show}
    async with server_at(given.url) as server:
        return await actions[given.action](given, server)


async def _list(given: argparse.Namespace, server: Server) -> RenderableType:
    names = [given.projection] if given.projection else await _projections(server)
    found: list[tuple[str, Quarantined]] = []
    notes = []
    for name in names:
        items, more = await _quarantined(server, name, given.limit)
        found += [(name, item) for item in items]
        if more:
            notes.append(f"There are more in {name}: --limit {10 * given.limit}")
    return Group(_Listed(found), *notes) if found else "Nothing is in quarantine."


class _Listed:
    """A table of events; where it does not fit, three lines for each."""

    def __init__(self, found: list[tuple[str, Quarantined]]) -> None:
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


async def _projections(server: Server) -> list[str]:
    return [standing.name for standing in (await server.get("/v1/projections", Standings)).items]


async def _quarantined(
    server: Server, projection: str, limit: int
) -> tuple[list[Quarantined], bool]:
    items: list[Quarantined] = []
    cursor = ""
    while True:
        wanted = min(PAGE, limit - len(items))
        path = f"{_path(projection)}?limit={wanted}{cursor}"
        page = await server.get(path, QuarantinePage)
        items += page.items
        if page.next is None or len(items) >= limit:
            return items, page.next is not None
        cursor = f"&cursor={quote(str(page.next), safe='')}"


async def _show(given: argparse.Namespace, server: Server) -> RenderableType:
    item = await server.get(f"{_path(given.projection)}/{given.position}", dict[str, Any])
    event = await server.get(f"/v1/events/{given.position}", dict[str, Any])
    body = await server.ask("GET", f"/v1/events/{given.position}/body")
    headers = event.pop("headers")
    return written_out({"projection": given.projection, **item, **event}, headers, body)


def _path(projection: str) -> str:
    return f"/v1/projections/{quote(projection, safe='')}/quarantine"
