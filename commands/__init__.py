"""The command `loopledger`. This folder is the registry: a module without a leading underscore is a command.

Such a module has `HELP`, a line; `add_arguments(parser)`; and `run(given)`, which gives back the exit code.
"""

import argparse
import importlib
import importlib.metadata
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from eventstore.errors import LoopledgerError
from runtime.failing import print_failure

REFUSED, WRONG_ARGUMENT, INTERRUPTED = 1, 2, 130


def load_commands() -> dict[str, ModuleType]:
    """Every command, by name."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return {
        name: importlib.import_module(f"{__name__}.{name}")
        for name in names
        if not name.startswith("_")
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives back its exit code."""
    parser = argparse.ArgumentParser(
        prog="loopledger",
        description="An event-sourced state store for the webhooks of closed-loop programmes.",
        epilog="Settings: environment (LOOPLEDGER_...) and loopledger.toml; see README.md.",
    )
    version = importlib.metadata.version("loopledger")
    parser.add_argument("--version", action="version", version=f"loopledger {version}")
    parsers = parser.add_subparsers(dest="command", metavar="command")
    commands = load_commands()
    for name, command in commands.items():
        command.add_arguments(parsers.add_parser(name, help=command.HELP))
    given, unknown = parser.parse_known_args(arguments)
    if given.command is None:
        parser.print_help(sys.stderr)
        return WRONG_ARGUMENT
    if unknown:
        # With the usage of that command, where argparse would show the list of commands.
        parsers.choices[given.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code: int = commands[given.command].run(given)
    except KeyboardInterrupt:
        sys.stderr.write("loopledger: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough. Nothing is left to be flushed at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    except Exception as error:
        if os.environ.get("LOOPLEDGER_LOG_LEVEL") == "debug" and not isinstance(
            error, LoopledgerError
        ):
            raise
        print_failure(error)
        return REFUSED
    return code
