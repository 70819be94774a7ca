"""The command `loopledger projections`: where each stands, what is wrong with it, and what to do then."""

import argparse
import asyncio
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from commands._answers import Rebuild, Standing, Standings
from commands._follow import PACE, Follower
from commands._http import Server, add_url, reported, server_at
from commands._progress import facts_of
from commands._screen import Screen, table, this_screen, visible

HELP = "where each projection stands, and what to do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger projections`."""
    add_url(parser)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Ask the server; gives back the exit code: 0, 1 if it refused, 2 if it does not answer."""
    return reported(screen or this_screen(), lambda: asyncio.run(_ask(given)))


async def _ask(given: argparse.Namespace) -> RenderableType:
    async with server_at(given.url) as server:
        standings = (await server.get("/v1/projections", Standings)).items
        rebuilds = await _rebuilds(server, standings)
    notes = [note for standing in standings for note in _notes(standing)]
    notes += [_under_way(rebuild) for rebuild in rebuilds]
    return Group(_listed(standings), *([""] if notes else []), *notes)


async def _rebuilds(server: Server, standings: list[Standing]) -> list[Rebuild]:
    found = [await Follower(server, standing.name, PACE).rebuild() for standing in standings]
    return [rebuild for rebuild in found if rebuild is not None]


def _listed(standings: list[Standing]) -> RenderableType:
    counts = ("checkpoint", "lag", "folded", "ignored", "quarantined")
    listed = table(texts=("projection", "generation", "status"), numbers=counts)
    listed.padding = (0, 1, 0, 0)
    listed.add_column("stale", no_wrap=True)
    for standing in standings:
        listed.add_row(
            standing.name,
            str(standing.generation),
            _status(standing),
            *(f"{getattr(standing, name):,}" for name in counts),
            Text("stale", "yellow") if standing.stale else "no",
        )
    return listed


def _status(standing: Standing) -> Text:
    if standing.error:
        return Text("held up", "red")
    if standing.stuck:
        return Text("stuck", "red")
    return Text(standing.status, "green")


def _notes(standing: Standing) -> Iterator[Text]:
    if standing.error:
        yield Text(f"{standing.name} is held up: {visible(standing.error)}", "red")
    elif standing.stuck:
        yield Text(f"{standing.name} is stuck: an event has waited for more than 30 s", "red")
    if standing.stale or standing.advice:
        advice = visible(standing.advice or "other code folded it than runs now")
        yield Text(f"{standing.name} is stale: {advice}", "yellow")


def _under_way(rebuild: Rebuild) -> Text:
    start = f"{rebuild.name}: generation {rebuild.generation} is {rebuild.status}"
    command = f"loopledger rebuild {rebuild.name}"
    if rebuild.status == "failed":
        problem = visible(rebuild.error or "the server's log says why")
        return Text(f"{rebuild.name}: generation {rebuild.generation} failed: {problem}", "red")
    if rebuild.wanted:
        return Text(f"{start}; to {rebuild.wanted} it was asked for", "cyan")
    if rebuild.status == "ready":
        return Text(f"{start}; `{command}` shows its diff, and promotes it if you like", "cyan")
    return Text(f"{start} ({facts_of(rebuild)}); `{command}` watches it", "cyan")
