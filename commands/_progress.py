"""How far a rebuild is: a bar on a terminal, else a line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from commands._answers import Rebuild
from commands._follow import Pace

AWAY = "the server does not answer; waiting for it"

# Percent.
ALL = 100


@contextmanager
def shown(console: Console, pace: Pace) -> Iterator[Callable[[Rebuild | None], None]]:
    """Gives a function to show a rebuild with; None: the server does not answer."""
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
                    completed=0 if rebuild.target is None else rebuild.percent or 0,
                    facts=facts_of(rebuild),
                )

        yield show


def facts_of(rebuild: Rebuild) -> str:
    """How far, how fast, how long still: "60 %, 12,345 events/s, 0:00:30 left"."""
    if rebuild.status == "catching-up":
        return f"{rebuild.lag:,} events behind" if rebuild.lag else "level, being compared"
    if rebuild.status != "building":
        return ""
    if rebuild.target is None:
        return "waiting for the process that projects"
    facts = [f"{rebuild.percent or 0:.0f} %"]
    if rebuild.events_per_second:
        facts.append(f"{rebuild.events_per_second:,.0f} events/s")
    if rebuild.seconds_left:
        facts.append(f"{timedelta(seconds=round(rebuild.seconds_left))} left")
    elif rebuild.percent == ALL:
        facts.append("making its indexes")
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
            line = f"generation {rebuild.generation} {rebuild.status}: {facts_of(rebuild)}"
        printed = now
        console.print(line, soft_wrap=True)

    return show
