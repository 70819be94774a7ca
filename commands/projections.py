"""The command `loopledger projections`: the state of each, what is wrong with it, and what to do about it."""

import argparse
import asyncio
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from commands._answers import Rebuild, Standing, Standings
from commands._http import ApiClient, add_url, api_client, run_reporting, server_url_of
from commands._progress import describe_progress
from commands._rebuilds import PACE, RebuildClient
from commands._screen import Screen, standard_screen, table, visible

HELP = "show the state of each projection, and what to do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger projections`."""
    add_url(parser)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 if the server refused, 2 if it did not respond."""
    return run_reporting(screen or standard_screen(), lambda: asyncio.run(_run(given)))


async def _run(given: argparse.Namespace) -> RenderableType:
    async with api_client(server_url_of(given)) as client:
        standings = (await client.get("/v1/projections", Standings)).items
        rebuilds = await _rebuilds(client, standings)
    notes = [note for standing in standings for note in _notes(standing)]
    notes += [_under_way(rebuild) for rebuild in rebuilds]
    return Group(_listed(standings), *([""] if notes else []), *notes)


async def _rebuilds(client: ApiClient, standings: list[Standing]) -> list[Rebuild]:
    found = [await RebuildClient(client, standing.name, PACE).rebuild() for standing in standings]
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
        yield Text(f"{standing.name} is stuck: an event has been waiting for more than 30 s", "red")
    if standing.stale or standing.advice:
        advice = visible(standing.advice or "it was folded by other code than is running")
        yield Text(f"{standing.name} is stale: {advice}", "yellow")


# What was requested of a rebuild, as a noun.
_REQUESTED = {"promote": "promotion", "discard": "discarding"}


def _under_way(rebuild: Rebuild) -> Text:
    start = f"{rebuild.name}: generation {rebuild.generation} is {rebuild.status}"
    command = f"loopledger rebuild {rebuild.name}"
    if rebuild.status == "failed":
        problem = visible(rebuild.error or "the server's log says why")
        return Text(f"{rebuild.name}: generation {rebuild.generation} failed: {problem}", "red")
    if rebuild.wanted:
        return Text(
            f"{start}; its {_REQUESTED.get(rebuild.wanted, rebuild.wanted)} was requested", "cyan"
        )
    if rebuild.status == "ready":
        return Text(f"{start}; `{command}` shows its diff and can promote it", "cyan")
    return Text(f"{start} ({describe_progress(rebuild)}); `{command}` watches it", "cyan")
