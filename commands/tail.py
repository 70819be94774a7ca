"""The command `loopledger tail`: the newest events, and those that come."""

import argparse
import asyncio
from collections.abc import Iterator
from urllib.parse import urlencode

import msgspec

from commands._http import (
    DONE,
    REFUSED,
    ApiClient,
    UnexpectedResponseError,
    add_url,
    api_client,
    find_server,
    run_reporting,
)
from commands._screen import Screen, standard_screen, visible
from commands._sse import follow
from eventstore.query.cursor import Page
from runtime.arguments import filter_pair, whole_number

HELP = "print the newest events, and with --follow those that come"

# Events of one page.
PAGE = 1_000


class ShownEvent(msgspec.Struct):
    """What a line shows of an event."""

    position: int
    recorded_at: str
    merchant_id: str
    topic: str
    stream: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger tail`."""
    add_url(parser)
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--last",
        type=whole_number(0, PAGE),
        default=10,
        metavar="N",
        help="begin with the newest N events (%(default)s)",
    )
    begin.add_argument(
        "--since",
        type=whole_number(0),
        metavar="POSITION",
        help="begin behind this position; 0: with the first event",
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with what comes, also after a break"
    )
    add_filter(parser)
    parser.add_argument(
        "--json", action="store_true", help="print each event as one JSON object on a line"
    )


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Add --filter to a command that reads events."""
    parser.add_argument(
        "--filter",
        action="append",
        type=filter_pair,
        default=[],
        metavar="NAME=VALUE",
        dest="filters",
        help="only events with this provider, merchant_id, program_id, topic or stream; may be repeated",
    )


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Print events; gives back the exit code: 0, 1 if the server refused, 2 if it does not answer."""
    chosen = screen or standard_screen()
    return run_reporting(chosen, lambda: asyncio.run(_run(given, chosen)))


async def _run(given: argparse.Namespace, screen: Screen) -> int:
    async with api_client(find_server(given)) as client:
        printer = _Printer(screen, as_json=given.json)
        if given.since is None:
            await _print_newest(given, client, printer)
        else:
            await _print_since(given, client, printer)
        if given.follow:
            return await _follow(given, client, printer, screen)
    return DONE


async def _print_newest(given: argparse.Namespace, client: ApiClient, printer: "_Printer") -> None:
    if given.last == 0:
        return
    question = [*given.filters, ("sort", "-position"), ("limit", str(given.last))]
    page = await client.get(f"/v1/events?{urlencode(question)}", Page[msgspec.Raw, str])
    for item in reversed(page.items):
        printer.print(item)


async def _print_since(given: argparse.Namespace, client: ApiClient, printer: "_Printer") -> None:
    question = [*given.filters, ("after", str(given.since)), ("limit", str(PAGE))]
    printer.position = given.since
    cursor: list[tuple[str, str]] = []
    while True:
        path = f"/v1/events?{urlencode([*question, *cursor])}"
        page = await client.get(path, Page[msgspec.Raw, str])
        for item in page.items:
            printer.print(item)
        if page.next is None:
            return
        cursor = [("cursor", page.next)]


async def _follow(
    given: argparse.Namespace, client: ApiClient, printer: "_Printer", screen: Screen
) -> int:
    path = f"/v1/events/stream?{urlencode(given.filters)}"
    last_id = "" if printer.position is None else str(printer.position)
    breaks = _Breaks(screen)
    async for message in follow(client, path, last_id, breaks.report, lambda: find_server(given)):
        breaks.over()
        if message.event == "reset":
            screen.error(f"the log ends before what was printed last; it goes on: {message.data}")
        elif message.data:
            printer.print(message.data.encode())
    return REFUSED


class _Printer:
    """Prints events; `position` is that of the last one, or where they begin."""

    def __init__(self, screen: Screen, *, as_json: bool) -> None:
        self.position: int | None = None
        self._out = screen.out.file
        self._as_json = as_json

    def print(self, item: msgspec.Raw | bytes) -> None:
        """Print one. Raises UnexpectedResponseError."""
        try:
            event = msgspec.json.decode(item, type=ShownEvent)
        except msgspec.DecodeError as error:
            raise UnexpectedResponseError(path="/v1/events", problem=str(error)) from error
        self.position = event.position
        line = bytes(item).decode() if self._as_json else "  ".join(_columns(event))
        self._out.write(f"{line}\n")
        self._out.flush()


def _columns(event: ShownEvent) -> Iterator[str]:
    yield f"{event.position:>8}"
    yield visible(event.recorded_at[:19])
    yield visible(event.topic)
    yield visible(event.stream)


class _Breaks:
    """Says once that a stream broke, and nothing more until it has gone on."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._told = False

    def report(self, problem: str) -> None:
        """Say it."""
        if not self._told:
            self._screen.error(f"the stream broke ({problem}); connecting again")
        self._told = True

    def over(self) -> None:
        """Note that it goes on."""
        self._told = False
