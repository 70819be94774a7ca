"""The command `loopledger rebuild`: fold a projection anew, see what would change, and decide."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

from commands._answers import Diff, Rebuild, Standing
from commands._diff import comparison
from commands._follow import PACE, Follower, Pace, PromotedError
from commands._http import (
    DEFAULT_URL,
    DIFFERENT,
    DONE,
    INTERRUPTED,
    REFUSED,
    add_url,
    projection_name,
    reported,
    server_at,
)
from commands._progress import shown
from commands._screen import Screen, this_screen

HELP = "fold a projection anew, see what would change, promote it"

T = TypeVar("T")

PROMOTE, IF_UNCHANGED, DRY_RUN = "promote", "promote-if-unchanged", "dry-run"
VERIFY, DISCARD, ROLLBACK = "from-scratch-verify", "discard", "rollback"

CHOICES = {
    PROMOTE: "promote the new generation, whatever its diff; the one that is ready, if one is",
    IF_UNCHANGED: "promote it if no row and no entry of its journal differs; else exit 3",
    DRY_RUN: "show the diff, then discard the new generation",
    VERIFY: "say whether the live state equals a fresh fold of the log, then discard that; else exit 3",
    DISCARD: "begin none: discard the rebuild that is under way or ready",
    ROLLBACK: "begin none: make the generation that was live before live again",
}

EPILOG = """\
The server folds a new generation beside the live one, which answers meanwhile. If a
rebuild is under way already, this command joins it. At a terminal it asks whether to
promote; elsewhere, without an option, the new generation stays ready.

exit codes:
    0  done
    1  the server refused, or the rebuild failed
    2  no server answers
    3  there are differences (--promote-if-unchanged, --from-scratch-verify)
  130  interrupted; the rebuild goes on in the server
"""


class _Ready(NamedTuple):
    """A rebuild that is ready: `own` if this command began it."""

    live: Standing
    rebuild: Rebuild
    diff: Diff
    own: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger rebuild`."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("projection", type=projection_name, help="as `loopledger projections` has")
    choices = parser.add_mutually_exclusive_group()
    for choice, help_ in CHOICES.items():
        choices.add_argument(
            f"--{choice}", action="store_const", dest="choice", const=choice, help=help_
        )
    add_url(parser)


def run(given: argparse.Namespace, screen: Screen | None = None, pace: Pace = PACE) -> int:
    """Run the command; gives back its exit code, one of those in EPILOG."""
    command = _Command(given, screen or this_screen(), pace)
    return reported(command.screen, command.run)


class _Command:
    """One run of the command: its parts, and what it says about them."""

    def __init__(self, given: argparse.Namespace, screen: Screen, pace: Pace) -> None:
        self.screen = screen
        self._name: str = given.projection
        self._choice: str | None = given.choice
        self._url: str = given.url
        self._pace = pace

    def run(self) -> int:
        if self._choice == DISCARD:
            return self._discard_what_is_there()
        if self._choice == ROLLBACK:
            return self._roll_back()
        # Says at once if there is no server, or no such projection.
        live = self._do(lambda follower: follower.standing())
        own = self._do(lambda follower: follower.begin())
        doing = "begun" if own else "is under way already: joining it"
        self.screen.say(f"Rebuild of {self._name} {doing}")
        try:
            rebuild = self._do(lambda follower: follower.until_ready(live.generation), bar=True)
        except KeyboardInterrupt:
            return self._leave_running()
        except PromotedError as error:
            if self._choice not in {None, PROMOTE}:
                raise
            self.screen.say(str(error))
            return DONE
        if rebuild.diff is None:
            raise AssertionError(rebuild)
        live = self._do(lambda follower: follower.standing_at_last())
        return self._conclude(_Ready(live, rebuild, rebuild.diff, own))

    def _conclude(self, ready: _Ready) -> int:
        generation = ready.rebuild.generation
        self.screen.say(_in_words(ready.rebuild))
        if self._choice == VERIFY and ready.diff.empty:
            self.screen.say(
                f"The live state of {self._name} equals a fresh fold of the log "
                f"up to position {ready.diff.position:,}."
            )
            return self._tidy_up(ready, DONE)
        self.screen.out.print(comparison(ready.live, ready.rebuild, ready.diff))
        if self._choice == VERIFY:
            self.screen.say(f"The live state of {self._name} is not what a fresh fold gives.")
            return self._tidy_up(ready, DIFFERENT)
        if self._choice == DRY_RUN:
            return self._tidy_up(ready, DONE)
        if self._choice == PROMOTE or (self._choice == IF_UNCHANGED and ready.diff.empty):
            return self._promote(ready)
        if self._choice == IF_UNCHANGED:
            self.screen.say("There are differences: not promoted.")
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
            self._do(lambda follower: follower.promote(generation), f"promoting {generation}")
        except KeyboardInterrupt:
            self.screen.complain(
                "interrupted; the server may promote it all the same. See\n"
                f"  loopledger projections{self._other_url()}"
            )
            return INTERRUPTED
        self.screen.say(
            f"Generation {generation} of {self._name} is live. "
            f"To go back to generation {ready.live.generation}:\n  {self._line(ROLLBACK)}"
        )
        return DONE

    def _tidy_up(self, ready: _Ready, code: int) -> int:
        """Discard what this command began, and nothing else."""
        generation = ready.rebuild.generation
        if not ready.own:
            self.screen.say("Somebody else began this rebuild: it is not discarded.")
            return self._leave_ready(generation, code)
        self._do(lambda follower: follower.discard(generation), f"discarding {generation}")
        self.screen.say(f"Generation {generation} is discarded.")
        return code

    def _discard_what_is_there(self) -> int:
        rebuild = self._do(lambda follower: follower.rebuild())
        if rebuild is None:
            # The server says better what there is not: a rebuild, or such a projection.
            live = self._do(lambda follower: follower.standing())
            self.screen.complain(f"there is no rebuild of {live.name}")
            return REFUSED
        generation = rebuild.generation
        self._do(lambda follower: follower.discard(generation), f"discarding {generation}")
        self.screen.say(f"Generation {generation} of {self._name} is discarded.")
        return DONE

    def _roll_back(self) -> int:
        before = self._do(lambda follower: follower.standing()).generation
        live = self._do(lambda follower: follower.roll_back(before), bar=True)
        self.screen.say(
            f"Generation {live.generation} of {self._name} is live again, "
            f"generation {before} is retired."
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
        self.screen.complain(
            "interrupted; the rebuild goes on in the server. To watch it, to discard it:\n"
            f"  {self._line()}\n"
            f"  {self._line(DISCARD)}"
        )
        return INTERRUPTED

    def _line(self, choice: str | None = None) -> str:
        option = f" --{choice}" if choice else ""
        return f"loopledger rebuild {self._name}{option}{self._other_url()}"

    def _other_url(self) -> str:
        return "" if self._url == DEFAULT_URL else f" --url {self._url}"

    def _do(
        self, ask: Callable[[Follower], Awaitable[T]], doing: str = "", *, bar: bool = False
    ) -> T:
        """Ask the server, and show that it is being asked."""

        async def do() -> T:
            spinner = self.screen.err.status(doing) if doing else nullcontext()
            with progress as show, spinner:
                async with server_at(self._url) as server:
                    return await ask(Follower(server, self._name, self._pace, show))

        progress = shown(self.screen.err, self._pace) if bar else nullcontext(lambda _: None)
        return asyncio.run(do())


def _in_words(rebuild: Rebuild) -> str:
    took = ""
    if rebuild.started_at and rebuild.ready_at:
        took = f" after {(rebuild.ready_at - rebuild.started_at).total_seconds():,.1f} s"
    return (
        f"Generation {rebuild.generation} is ready{took}: {rebuild.folded:,} events folded, "
        f"{rebuild.ignored:,} ignored, {rebuild.quarantined:,} quarantined"
    )
