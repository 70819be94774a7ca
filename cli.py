"""The command `loopledger`."""

import argparse
import asyncio
import importlib.metadata
import os
import sys
from collections.abc import Sequence

import composition
import server
from eventstore.errors import LoopledgerError
from simulation import command as simulate
from web import client


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
    client.add_sign_arguments(
        commands.add_parser("sign", help="print an example delivery that your settings let in")
    )
    client.add_rejections_arguments(
        commands.add_parser("rejections", help="what was refused, why, and another try")
    )
    given = parser.parse_args(arguments)
    try:
        return run(given)
    except LoopledgerError as error:
        sys.stderr.write(f"loopledger: {error}\n")
        return 1


def run(given: argparse.Namespace) -> int:
    """Run the command that was given."""
    if given.command == "serve":
        return server.run(given)
    if given.command == "simulate":
        return simulate.run(given)
    if given.command == "sign":
        return client.run_sign(
            given, composition.settings_from(os.environ), composition.read_secret
        )
    if given.action == "retry" and given.trust:
        asyncio.run(client.vouch(given.id, server.dsn_of(composition.settings_from(os.environ))))
    return client.run_rejections(given)


if __name__ == "__main__":
    sys.exit(main())
