"""The command `loopledger simulate`: sends simulated deliveries to a running server."""

import argparse
import asyncio
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from time import perf_counter

import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from commands._http import (
    DONE,
    INTERRUPTED,
    NO_SERVER,
    REFUSED,
    ServerAddress,
    add_url,
    api_client,
    find_server,
)
from commands._screen import visible
from eventstore.errors import LoopledgerError
from runtime.arguments import positive_number, share, whole_number
from simulation.client import Summary, send
from simulation.deliveries import Rates, deliveries

HELP = "send realistic simulated deliveries to a server"

__all__ = ["add_arguments", "run"]

UNVERIFIED = str(HTTPStatus.UNAUTHORIZED.value)
"""Why a delivery was refused."""
BAR_SECONDS, LINE_SECONDS = 0.1, 2.0
"""Between two updates of the progress bar, and of the lines printed where there is none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `loopledger simulate` to a parser."""
    add = parser.add_argument
    add_url(parser)
    add(
        "--deliveries",
        type=whole_number(1),
        default=20_000,
        metavar="N",
        help="how many to send (%(default)s)",
    )
    add(
        "--seed",
        type=whole_number(0),
        metavar="N",
        help="the same seed sends the same bytes (default: random)",
    )
    add(
        "--connections",
        type=whole_number(1),
        default=32,
        metavar="N",
        help="how many to use at once (%(default)s)",
    )
    add(
        "--rate",
        type=positive_number,
        metavar="R",
        help="deliveries per second (default: as many as the server takes)",
    )
    add("--duplicates", type=share, default=0.02, metavar="S", help="share sent twice (0.02)")
    add(
        "--late",
        type=share,
        default=0.02,
        metavar="S",
        help="share that arrive after a newer one (0.02)",
    )
    add("--json", action="store_true", help="print only the summary, as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code.

    0: nothing was refused; 1: something was; 2: no Loopledger answers; 130: interrupted.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_simulate(args, find_server(args)))


async def _simulate(args: argparse.Namespace, address: ServerAddress) -> int:
    out = Console(highlight=False, markup=False, soft_wrap=True)
    err = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)
    try:
        # Whatever else listens there must not get traffic that is not meant for it.
        async with api_client(address) as client:
            await client.check_server()
    except LoopledgerError as error:
        err.print(f"loopledger: {visible(str(error))}")
        return NO_SERVER
    url = address.url
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    (err if args.json else out).print(
        f"Sending {args.deliveries:,} deliveries to {url} over {args.connections} connections;"
        f" repeat them with --seed {seed}",
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Ignored from the start in a shell's background job: then it stays so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        with _progress(err, args.deliveries) as show:
            summary = await send(
                url,
                deliveries(seed, args.deliveries, Rates(duplicate=args.duplicates, late=args.late)),
                connections=args.connections,
                rate=args.rate,
                on_progress=show,
                stop=stop,
            )
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if args.json:
        out.file.write(_json(summary, seed) + "\n")
    else:
        out.print(_table(summary))
        if UNVERIFIED in summary.refused:
            out.print(
                "The server verifies deliveries, and simulated ones are not signed: use one without verification."
            )
        out.print(f"See the result: curl {url}/v1/projections")
    if stop.is_set():
        return INTERRUPTED
    return REFUSED if summary.refused else DONE


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of the run: a bar on a terminal, else a line every few seconds."""
    every = BAR_SECONDS if console.is_terminal else LINE_SECONDS
    started = shown = perf_counter()
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=total, rate=0.0)

        def show(sent: int) -> None:
            # Called for every delivery: drawing each time would cost more than sending.
            nonlocal shown
            now = perf_counter()
            if now - shown < every:
                return
            shown = now
            rate = sent / (now - started)
            if console.is_terminal:
                bar.update(task, completed=sent, rate=rate)
            else:
                left = (total - sent) / rate
                console.print(f"{sent:,} of {total:,} sent, {rate:,.0f}/s, {left:.0f} s left")

        yield show


def _table(summary: Summary) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "sent": f"{summary.sent:,}",
        "accepted": f"{summary.accepted:,}",
        "refused": f"{sum(summary.refused.values()):,}",
        **{f"  {cause}": f"{count:,}" for cause, count in summary.refused.items()},
        "retried": f"{summary.retried:,}",
        "of these, duplicates": f"{summary.duplicates:,}",
        "of these, late": f"{summary.late:,}",
        "deliveries/s": f"{summary.deliveries_per_second:,.0f}",
        "p50 / p99 ms": f"{summary.p50_ms:.1f} / {summary.p99_ms:.1f}",
        "last position": f"{summary.last_position:,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _json(summary: Summary, seed: int) -> str:
    facts = {
        "seed": seed,
        **msgspec.structs.asdict(summary),
        "deliveries_per_second": summary.deliveries_per_second,
    }
    return msgspec.json.encode(facts).decode()
