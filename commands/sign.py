"""The command `loopledger sign`: an example delivery to test one's settings with."""

import argparse
import os
import shlex
from datetime import UTC, datetime
from uuid import uuid4

from commands._http import DONE, add_url, server_url_of
from commands._screen import Screen, standard_screen
from providers import load_providers, settings_types
from runtime.secrets import read_secret
from runtime.wiring import settings_from
from verification.signing import sign
from verification.verifier import Verification

HELP = "print an example delivery that passes your verification settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger sign`."""
    parser.add_argument("provider", choices=sorted(settings_types()))
    add_url(parser)
    parser.add_argument(
        "--body",
        metavar="FILE",
        type=argparse.FileType("rb"),
        help="send this body instead of the example",
    )


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Print a curl line whose delivery passes the verification that the settings of this machine ask for.

    Raises SettingsError, UnsignableError.
    """
    settings = settings_from(os.environ)
    example = load_providers(settings.providers)[given.provider].example
    body = given.body.read() if given.body else example.body
    verification = getattr(settings.providers.get(given.provider), "verification", Verification())
    path, signed = sign(
        verification, read_secret, given.provider, body, datetime.now(UTC), f"msg_{uuid4().hex}"
    )
    words = ["curl", "-i", server_url_of(given) + path, "-H", "Content-Type: application/json"]
    for name, value in {**example.headers, **signed}.items():
        words += ["-H", f"{name}: {value}"]
    data = f"@{given.body.name}" if given.body else body.decode()
    # One line, to be copied.
    (screen or standard_screen()).out.print(
        shlex.join([*words, "--data-binary", data]), soft_wrap=True
    )
    return DONE
