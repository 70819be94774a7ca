"""The command `loopledger rebuild`: rebuild a projection, show what would change, and promote it or not."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

from commands._diff import comparison
from commands._http import (
    DIFFERENT,
    DONE,
    INTERRUPTED,
    REFUSED,
    add_url,
    api_client,
    find_server,
    projection_name,
    run_reporting,
)
from commands._progress import shown
from commands._rebuilds import PACE, Pace, PromotedError, RebuildClient
from commands._screen import Screen, standard_screen
from eventstore.fold.status import Diff, Rebuild
from web.api.projections import ProjectionDetails

HELP = "rebuild a projection, show what would change, promote it"

T = TypeVar("T")

PROMOTE, IF_UNCHANGED, DRY_RUN = "promote", "promote-if-unchanged", "dry-run"
VERIFY, DISCARD, ROLLBACK = "from-scratch-verify", "discard", "rollback"

CHOICES = {
    PROMOTE: "promote the new generation whatever its diff (or the one that is ready already)",
    IF_UNCHANGED: "promote it if no row and no journal entry differs; otherwise exit with 3",
    DRY_RUN: "show the diff, then discard the new generation",
    VERIFY: "check that the live state equals a fresh fold of the log, then discard that; exit with 3 if not",
    DISCARD: "start nothing; discard the rebuild that is under way or ready",
    ROLLBACK: "start nothing; make the previously live generation live again",
}

EPILOG = """\
The server builds a new generation beside the live one, which goes on serving reads.
If a rebuild is under way already, this command joins it. On a terminal it asks whether
to promote; otherwise, without an option, the new generation stays ready.

exit codes:
    0  done
    1  the server refused, or the rebuild failed
    2  no server responds
    3  there are differences (--promote-if-unchanged, --from-scratch-verify)
  130  interrupted; the rebuild continues in the server
"""


class _Ready(NamedTuple):
    """A rebuild that is ready; `own` if this command started it."""

    live: ProjectionDetails
    rebuild: Rebuild
    diff: Diff
    own: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger rebuild`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "projection", type=projection_name, help="its name in `loopledger projections`"
    )
    choices = parser.add_mutually_exclusive_group()
    for choice, help_ in CHOICES.items():
        choices.add_argument(
            f"--{choice}", action="store_const", dest="choice", const=choice, help=help_
        )
    add_url(parser)


def run(given: argparse.Namespace, screen: Screen | None = None, pace: Pace = PACE) -> int:
    """Run the command; returns its exit code, one of those in EPILOG."""
    command = _Command(given, screen or standard_screen(), pace)
    return run_reporting(command.screen, command.run)


class _Command:
    """One run of the command: its steps, and what it prints about them."""

    def __init__(self, given: argparse.Namespace, screen: Screen, pace: Pace) -> None:
        self.screen = screen
        self._name: str = given.projection
        self._choice: str | None = given.choice
        self._given = given
        self._pace = pace

    def run(self) -> int:
        if self._choice == DISCARD:
            return self._discard_existing()
        if self._choice == ROLLBACK:
            return self._roll_back()
        # Fails at once if there is no server, or no such projection.
        live = self._do(lambda client: client.status())
        own = self._do(lambda client: client.start())
        started = "started" if own else "is under way already; joining it"
        self.screen.say(f"Rebuild of {self._name} {started}")
        try:
            rebuild = self._do(lambda client: client.until_ready(live.generation), bar=True)
        except KeyboardInterrupt:
            return self._leave_running()
        except PromotedError as error:
            if self._choice not in {None, PROMOTE}:
                raise
            self.screen.say(str(error))
            return DONE
        if rebuild.diff is None:
            raise AssertionError(rebuild)
        live = self._do(lambda client: client.status_when_available())
        return self._conclude(_Ready(live, rebuild, rebuild.diff, own))

    def _conclude(self, ready: _Ready) -> int:
        generation = ready.rebuild.generation
        self.screen.say(_summary(ready.rebuild))
        if self._choice == VERIFY and ready.diff.is_empty:
            self.screen.say(
                f"The live state of {self._name} equals a fresh fold of the log "
                f"up to position {ready.diff.position:,}."
            )
            return self._discard_own(ready, DONE)
        self.screen.out.print(comparison(ready.live, ready.rebuild, ready.diff))
        if self._choice == VERIFY:
            self.screen.say(f"The live state of {self._name} differs from a fresh fold of the log.")
            return self._discard_own(ready, DIFFERENT)
        if self._choice == DRY_RUN:
            return self._discard_own(ready, DONE)
        if self._choice == PROMOTE or (self._choice == IF_UNCHANGED and ready.diff.is_empty):
            return self._promote(ready)
        if self._choice == IF_UNCHANGED:
            self.screen.say("There are differences, so it is not promoted.")
            return self._leave_ready(generation, DIFFERENT)
        return self._ask(ready)

    def _ask(self, ready: _Ready) -> int:
        generation = ready.rebuild.generation
        if self.screen.ask is None:
            return self._leave_ready(generation, DONE)
        try:
            answer = self.screen.ask(f"Promote generation {generation}? [y/N] ")
        except EOFError:
            answer = ""
        except KeyboardInterrupt:
            self.screen.say("")
            return self._leave_ready(generation, INTERRUPTED)
        if answer.strip().lower() in {"y", "yes"}:
            return self._promote(ready)
        return self._leave_ready(generation, DONE)

    def _promote(self, ready: _Ready) -> int:
        generation = ready.rebuild.generation
        try:
            self._do(lambda client: client.promote(generation), f"promoting {generation}")
        except KeyboardInterrupt:
            self.screen.error(
                "interrupted; the server may still promote it. Check with\n"
                f"  loopledger projections{self._other_url()}"
            )
            return INTERRUPTED
        self.screen.say(
            f"Generation {generation} of {self._name} is live. "
            f"To go back to generation {ready.live.generation}:\n  {self._line(ROLLBACK)}"
        )
        return DONE

    def _discard_own(self, ready: _Ready, code: int) -> int:
        """Discard what this command started, and nothing else."""
        generation = ready.rebuild.generation
        if not ready.own:
            self.screen.say("This rebuild was started by somebody else, so it is not discarded.")
            return self._leave_ready(generation, code)
        self._do(lambda client: client.discard(generation), f"discarding {generation}")
        self.screen.say(f"Generation {generation} is discarded.")
        return code

    def _discard_existing(self) -> int:
        rebuild = self._do(lambda client: client.rebuild())
        if rebuild is None:
            # Fails if there is no such projection, in the server's words.
            live = self._do(lambda client: client.status())
            self.screen.error(f"there is no rebuild of {live.name}")
            return REFUSED
        generation = rebuild.generation
        self._do(lambda client: client.discard(generation), f"discarding {generation}")
        self.screen.say(f"Generation {generation} of {self._name} is discarded.")
        return DONE

    def _roll_back(self) -> int:
        before = self._do(lambda client: client.status()).generation
        live = self._do(lambda client: client.roll_back(before), bar=True)
        self.screen.say(
            f"Generation {live.generation} of {self._name} is live again "
            f"and generation {before} is retired."
        )
        return DONE

    def _leave_ready(self, generation: int, code: int) -> int:
        self.screen.say(
            f"Generation {generation} stays ready and follows the log. Next:\n"
            f"  {self._line(PROMOTE)}\n"
            f"  {self._line(DISCARD)}"
        )
        return code

    def _leave_running(self) -> int:
        self.screen.error(
            "interrupted; the rebuild continues in the server. To watch it or to discard it:\n"
            f"  {self._line()}\n"
            f"  {self._line(DISCARD)}"
        )
        return INTERRUPTED

    def _line(self, choice: str | None = None) -> str:
        option = f" --{choice}" if choice else ""
        return f"loopledger rebuild {self._name}{option}{self._other_url()}"

    def _other_url(self) -> str:
        return f" --url {self._given.url}" if self._given.url else ""

    def _do(
        self, ask: Callable[[RebuildClient], Awaitable[T]], doing: str = "", *, bar: bool = False
    ) -> T:
        """Send requests to the server, and show that they are under way."""
        address = find_server(self._given)

        async def do() -> T:
            spinner = self.screen.err.status(doing) if doing else nullcontext()
            with progress as show, spinner:
                async with api_client(address) as client:
                    return await ask(RebuildClient(client, self._name, self._pace, show))

        progress = shown(self.screen.err, self._pace) if bar else nullcontext(lambda _: None)
        return asyncio.run(do())


def _summary(rebuild: Rebuild) -> str:
    took = ""
    if rebuild.ready_at:
        took = f" after {(rebuild.ready_at - rebuild.started_at).total_seconds():,.1f} s"
    return (
        f"Generation {rebuild.generation} is ready{took}: {rebuild.folded:,} events folded, "
        f"{rebuild.ignored:,} ignored, {rebuild.quarantined:,} quarantined"
    )
