"""The command `loopledger sign`: an example delivery to test one's settings with."""

import argparse
import asyncio
import os
import shlex

from rich.console import RenderableType

from commands._http import ServerAddress, add_url, api_client, find_server, run_reporting
from commands._screen import Screen, standard_screen
from providers import settings_types
from runtime.arguments import readable_file
from runtime.example import SignedDelivery, sign_example
from runtime.wiring import settings_from

HELP = "print or send an example delivery that passes your verification settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger sign`."""
    parser.add_argument("provider", choices=sorted(settings_types()))
    add_url(parser)
    parser.add_argument(
        "--body",
        metavar="FILE",
        type=readable_file,
        help="send this body instead of the example",
    )
    parser.add_argument(
        "--send",
        action="store_true",
        help="send it, and print the answer; no secret is printed then",
    )


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Print a curl line whose delivery passes the verification that the settings of this machine ask for, or send it.

    Raises SettingsError, UnsignableError.
    """
    body = given.body.read_bytes() if given.body else None
    signed = sign_example(settings_from(os.environ), given.provider, body)
    address = find_server(given)
    chosen = screen or standard_screen()
    if given.send:
        return run_reporting(chosen, lambda: asyncio.run(_send(signed, address)))
    words = ["curl", "-i", address.url + signed.path]
    for name, value in signed.headers.items():
        words += ["-H", f"{name}: {value}"]
    data = f"@{given.body}" if given.body else signed.body.decode()
    # One line, to be copied.
    line = shlex.join([*words, "--data-binary", data])
    return run_reporting(chosen, lambda: line)


async def _send(signed: SignedDelivery, address: ServerAddress) -> RenderableType:
    async with api_client(address) as client:
        answer = await client.request("POST", signed.path, signed.headers, signed.body)
    return answer.decode("utf-8", "backslashreplace").rstrip()
