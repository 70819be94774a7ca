"""The command `loopledger projections`: the state of each, what is wrong with it, and what to do about it."""

import argparse
import asyncio
from collections.abc import Iterator

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from commands._http import ApiClient, add_url, api_client, find_server, run_reporting
from commands._progress import describe_progress
from commands._rebuilds import PACE, RebuildClient
from commands._screen import Output, Screen, add_json, standard_screen, table, visible
from eventstore.fold.status import Rebuild
from eventstore.query.cursor import Page
from web.api.projections import ProjectionSummary

HELP = "show the state of each projection, and what to do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger projections`."""
    add_url(parser)
    add_json(parser)


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 if the server refused, 2 if it did not respond."""
    return run_reporting(
        screen or standard_screen(), lambda: asyncio.run(_run(given)), as_json=given.json
    )


async def _run(given: argparse.Namespace) -> Output:
    async with api_client(find_server(given)) as client:
        projections = (await client.get("/v1/projections", Page[ProjectionSummary, None])).items
        rebuilds = await _rebuilds(client, projections)
    notes = [note for projection in projections for note in _notes(projection)]
    notes += [_under_way(rebuild) for rebuild in rebuilds]
    under_way = {rebuild.name: rebuild for rebuild in rebuilds}
    items = [
        {**msgspec.structs.asdict(each), "rebuild": under_way.get(each.name)}
        for each in projections
    ]
    shown = Group(_listed(projections), *([""] if notes else []), *notes)
    return Output({"items": items}, shown)


async def _rebuilds(client: ApiClient, projections: list[ProjectionSummary]) -> list[Rebuild]:
    found = [
        await RebuildClient(client, projection.name, PACE).rebuild() for projection in projections
    ]
    return [rebuild for rebuild in found if rebuild is not None]


def _listed(projections: list[ProjectionSummary]) -> RenderableType:
    counts = ("checkpoint", "lag", "folded", "ignored", "quarantined")
    listed = table(texts=("projection", "generation", "status"), numbers=counts)
    listed.padding = (0, 1, 0, 0)
    listed.add_column("stale", no_wrap=True)
    for projection in projections:
        listed.add_row(
            projection.name,
            str(projection.generation),
            _status(projection),
            *(f"{getattr(projection, name):,}" for name in counts),
            Text("stale", "yellow") if projection.stale else "no",
        )
    return listed


def _status(projection: ProjectionSummary) -> Text:
    if projection.error:
        return Text("held up", "red")
    if projection.stuck:
        return Text("stuck", "red")
    return Text(projection.status, "green")


def _notes(projection: ProjectionSummary) -> Iterator[Text]:
    if projection.error:
        yield Text(f"{projection.name} is held up: {visible(projection.error)}", "red")
    elif projection.stuck:
        yield Text(
            f"{projection.name} is stuck: an event has been waiting for more than 30 s", "red"
        )
    if projection.stale or projection.advice:
        advice = visible(projection.advice or "it was folded by other code than is running")
        yield Text(f"{projection.name} is stale: {advice}", "yellow")


# What was requested of a rebuild, as a noun.
_REQUESTED = {"promote": "promotion", "discard": "discarding"}


def _under_way(rebuild: Rebuild) -> Text:
    start = f"{rebuild.name}: generation {rebuild.generation} is {rebuild.status}"
    command = f"loopledger rebuild {rebuild.name}"
    if rebuild.status == "failed":
        problem = visible(rebuild.error or "the server's log says why")
        return Text(f"{rebuild.name}: generation {rebuild.generation} failed: {problem}", "red")
    if rebuild.wanted:
        waiting = f" and waits for {visible(rebuild.waiting)}" if rebuild.waiting else ""
        requested = _REQUESTED.get(rebuild.wanted, rebuild.wanted)
        return Text(f"{start}; its {requested} was requested{waiting}", "cyan")
    if rebuild.status == "ready":
        return Text(f"{start}; `{command}` shows its diff and can promote it", "cyan")
    return Text(f"{start} ({describe_progress(rebuild)}); `{command}` watches it", "cyan")
