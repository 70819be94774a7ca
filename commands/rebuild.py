"""The command `loopledger rebuild`: rebuild a projection, show what would change, and promote it or not."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import NamedTuple, TypeVar

import msgspec

from commands._diff import comparison
from commands._http import (
    DIFFERENT,
    DONE,
    INTERRUPTED,
    NO_SERVER,
    REFUSED,
    WRONG_ARGUMENT,
    ServerAddress,
    add_url,
    api_client,
    find_server,
    projection_name,
    run_reporting,
)
from commands._progress import shown
from commands._rebuilds import PACE, Pace, PromotedError, RebuildClient
from commands._screen import Screen, add_json, print_json, standard_screen
from eventstore.errors import LoopledgerError
from eventstore.fold.status import Diff, Rebuild
from eventstore.query.cursor import Page
from web.api.projections import ProjectionDetails, ProjectionSummary

HELP = "rebuild a projection or all that are stale, show what would change, promote it"

T = TypeVar("T")

PROMOTE, IF_UNCHANGED, DRY_RUN = "promote", "promote-if-unchanged", "dry-run"
VERIFY, DISCARD, ROLLBACK = "from-scratch-verify", "discard", "rollback"

CHOICES = {
    PROMOTE: "promote the new generation whatever its diff (or the one that is ready already)",
    IF_UNCHANGED: "promote it if no row differs, of states, timelines or postings; otherwise exit with 3",
    DRY_RUN: "show the diff, then discard the new generation",
    VERIFY: "check that the live state equals a fresh fold of the log, then discard that; exit with 3 if not",
    DISCARD: "start nothing; discard the rebuild that is under way or ready",
    ROLLBACK: "start nothing; make the previously live generation live again",
}

# Of several projections, the first of these that occurred is the exit code.
WORST_FIRST = (INTERRUPTED, NO_SERVER, REFUSED, DIFFERENT, DONE)

EPILOG = """\
Without a name, every stale projection is rebuilt, one after the other; with
--from-scratch-verify, every projection is checked.

The server builds a new generation beside the live one, which goes on serving reads.
If a rebuild is under way already, this command joins it. On a terminal it asks whether
to promote; otherwise, without an option, the new generation stays ready.

exit codes:
    0  done
    1  the server refused, or the rebuild failed
    2  no server responds, or a wrong argument
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
        "projection",
        nargs="?",
        type=projection_name,
        help="its name in `loopledger projections` (default: every one that is stale)",
    )
    choices = parser.add_mutually_exclusive_group()
    for choice, help_ in CHOICES.items():
        choices.add_argument(
            f"--{choice}", action="store_const", dest="choice", const=choice, help=help_
        )
    add_url(parser)
    add_json(parser)


def run(given: argparse.Namespace, screen: Screen | None = None, pace: Pace = PACE) -> int:
    """Run the command; returns its exit code, one of those in EPILOG."""
    chosen = screen or standard_screen()
    # What people read goes to standard error then, and nobody is asked.
    shown = Screen(chosen.err, chosen.err) if given.json else chosen
    names: list[str] = []
    code = run_reporting(shown, lambda: _choose(given, shown, names))
    if code != DONE:
        return code
    outcomes: list[_Outcome] = []
    for name in names:
        command = _Command(given, shown, pace, name)
        code = run_reporting(shown, command.run)
        outcomes.append(command.outcome(code))
        if code in {NO_SERVER, INTERRUPTED}:
            break
    if given.json:
        print_json(chosen, {"items": outcomes})
    codes = {outcome.exit_code for outcome in outcomes} or {DONE}
    return next(each for each in WORST_FIRST if each in codes)


def _choose(given: argparse.Namespace, screen: Screen, names: list[str]) -> int:
    """Choose what to rebuild: what is named, or else all that is stale; to verify, all."""
    if given.projection is not None:
        names.append(given.projection)
        return DONE
    if given.choice in {DISCARD, ROLLBACK}:
        screen.error(f"--{given.choice} needs the name of a projection.")
        return WRONG_ARGUMENT
    listed = asyncio.run(_list_projections(find_server(given)))
    names += [each.name for each in listed if each.stale or given.choice == VERIFY]
    screen.say(f"To be rebuilt: {', '.join(names)}" if names else "No projection is stale.")
    return DONE


async def _list_projections(address: ServerAddress) -> list[ProjectionSummary]:
    async with api_client(address) as client:
        return (await client.get("/v1/projections", Page[ProjectionSummary, None])).items


class _Outcome(msgspec.Struct, frozen=True):
    """How the rebuild of one projection ended, for programs; `rebuild` as it was seen last."""

    projection: str
    outcome: str
    exit_code: int
    error: str | None
    rebuild: Rebuild | None


class _Command:
    """One rebuild: its steps, and what is printed about them."""

    def __init__(
        self, given: argparse.Namespace, screen: Screen, pace: Pace, projection: str
    ) -> None:
        self.screen = screen
        self._name = projection
        self._ended = "failed"
        self._error: str | None = None
        self._rebuild: Rebuild | None = None
        self._choice: str | None = given.choice
        self._given = given
        self._pace = pace

    def outcome(self, code: int) -> _Outcome:
        """How it ended, after `run`."""
        return _Outcome(self._name, self._ended, code, self._error, self._rebuild)

    def run(self) -> int:
        """Do what was asked for. Raises LoopledgerError."""
        try:
            return self._run()
        except LoopledgerError as error:
            self._error = str(error)
            raise

    def _run(self) -> int:
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
            self._ended = "promoted"
            return DONE
        self._rebuild = rebuild
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
            self._ended = "unknown"
            return INTERRUPTED
        self._ended = "promoted"
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
        self._ended = "discarded"
        self.screen.say(f"Generation {generation} is discarded.")
        return code

    def _discard_existing(self) -> int:
        rebuild = self._do(lambda client: client.rebuild())
        if rebuild is None:
            # Fails if there is no such projection, in the server's words.
            live = self._do(lambda client: client.status())
            self.screen.error(f"There is no rebuild of {live.name}.")
            return REFUSED
        generation = rebuild.generation
        self._do(lambda client: client.discard(generation), f"discarding {generation}")
        self._ended = "discarded"
        self.screen.say(f"Generation {generation} of {self._name} is discarded.")
        return DONE

    def _roll_back(self) -> int:
        before = self._do(lambda client: client.status()).generation
        live = self._do(lambda client: client.roll_back(before), bar=True)
        self._ended = "rolled-back"
        self.screen.say(
            f"Generation {live.generation} of {self._name} is live again "
            f"and generation {before} is retired."
        )
        return DONE

    def _leave_ready(self, generation: int, code: int) -> int:
        self._ended = "ready"
        self.screen.say(
            f"Generation {generation} stays ready and follows the log. Next:\n"
            f"  {self._line(PROMOTE)}\n"
            f"  {self._line(DISCARD)}"
        )
        return code

    def _leave_running(self) -> int:
        self._ended = "running"
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
