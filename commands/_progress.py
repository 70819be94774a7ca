"""The progress of a rebuild: a bar on a terminal, else a line every few seconds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from commands._rebuilds import Pace
from eventstore.fold.status import Rebuild

AWAY = "the server does not respond; waiting for it"

# Percent.
ALL = 100


@contextmanager
def shown(console: Console, pace: Pace) -> Iterator[Callable[[Rebuild | None], None]]:
    """Gives a function that shows a rebuild; None means that the server does not respond."""
    if not console.is_terminal:
        yield _lines(console, pace)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[facts]}"),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=ALL, facts="")

        def show(rebuild: Rebuild | None) -> None:
            if rebuild is None:
                bar.update(task, facts=AWAY)
            else:
                bar.update(
                    task,
                    description=f"generation {rebuild.generation} {rebuild.status}",
                    completed=0 if rebuild.target is None else rebuild.percent,
                    facts=describe_progress(rebuild),
                )

        yield show


def describe_progress(rebuild: Rebuild) -> str:
    """How far, how fast and how long to go: "60 %, 12,345 events/s, 0:00:30 left"."""
    if rebuild.status == "catching-up":
        return f"{rebuild.lag:,} events behind" if rebuild.lag else "caught up, being compared"
    if rebuild.status != "building":
        return ""
    if rebuild.target is None:
        return "waiting for the projecting process"
    facts = [f"{rebuild.percent:.0f} %"]
    if rebuild.events_per_second:
        facts.append(f"{rebuild.events_per_second:,.0f} events/s")
    if rebuild.seconds_left:
        facts.append(f"{timedelta(seconds=rebuild.seconds_left)} left")
    elif rebuild.percent == ALL:
        facts.append("building indexes")
    return ", ".join(facts)


def _lines(console: Console, pace: Pace) -> Callable[[Rebuild | None], None]:
    printed: float | None = None

    def show(rebuild: Rebuild | None) -> None:
        nonlocal printed
        now = perf_counter()
        if printed is not None and now - printed < pace.line:
            return
        if rebuild is None:
            line = AWAY
        elif rebuild.status == "ready":
            return  # What follows says so.
        else:
            line = f"generation {rebuild.generation} {rebuild.status}: {describe_progress(rebuild)}"
        printed = now
        console.print(line, soft_wrap=True)

    return show
