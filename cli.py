"""The command `loopledger`."""

import argparse
import asyncio
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import server
from eventstore.errors import LoopledgerError
from runtime import wiring
from simulation import command as simulate
from web.client import projections, quarantine, rebuild, rejections, sign


class Command(NamedTuple):
    """A command: what it is for, its arguments, and how it is run; `run` gives back the exit code."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives back its exit code."""
    parser = argparse.ArgumentParser(
        prog="loopledger",
        description="An event-sourced state store for the webhooks of closed-loop programmes.",
        epilog="Settings: environment (LOOPLEDGER_...) and loopledger.toml; see README.md.",
    )
    version = importlib.metadata.version("loopledger")
    parser.add_argument("--version", action="version", version=f"loopledger {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.help))
    given = parser.parse_args(arguments)
    try:
        return COMMANDS[given.command].run(given)
    except LoopledgerError as error:
        sys.stderr.write(f"loopledger: {error}\n")
        return 1


def run_sign(given: argparse.Namespace) -> int:
    """Sign by the settings of this machine."""
    return sign.run(given, wiring.settings_from(os.environ), wiring.read_secret)


def run_rejections(given: argparse.Namespace) -> int:
    """Ask about rejections; to vouch for one is done in the database itself."""
    if given.action == "retry" and given.trust:
        dsn = server.dsn_of(wiring.settings_from(os.environ))
        asyncio.run(rejections.vouch(given.id, dsn))
    return rejections.run(given)


COMMANDS = {
    "serve": Command(
        "run the server, with its own Postgres if need be", server.add_arguments, server.run
    ),
    "simulate": Command(
        "send a believable stream of deliveries to a server", simulate.add_arguments, simulate.run
    ),
    "sign": Command(
        "print an example delivery that your settings let in", sign.add_arguments, run_sign
    ),
    "rejections": Command(
        "what was refused, why, and another try", rejections.add_arguments, run_rejections
    ),
    "projections": Command(
        "where each projection stands, and what to do", projections.add_arguments, projections.run
    ),
    "rebuild": Command(
        "fold a projection anew, see what would change, promote it",
        rebuild.add_arguments,
        rebuild.run,
    ),
    "quarantine": Command(
        "the events that could not be folded, and why", quarantine.add_arguments, quarantine.run
    ),
}


if __name__ == "__main__":
    sys.exit(main())
