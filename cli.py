"""The command `loopledger`."""

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

import server
from simulation import command as simulate


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
    server.add_arguments(
        commands.add_parser("serve", help="run the server, with its own Postgres if need be")
    )
    simulate.add_arguments(
        commands.add_parser("simulate", help="send a believable stream of deliveries to a server")
    )
    given = parser.parse_args(arguments)
    return server.run(given) if given.command == "serve" else simulate.run(given)


if __name__ == "__main__":
    sys.exit(main())
