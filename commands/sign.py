"""The command `loopledger sign`: an example delivery to test one's settings with."""

import argparse
import os
import shlex
from datetime import UTC, datetime
from uuid import uuid4

import msgspec

from commands._http import DONE, add_url
from commands._screen import Screen, this_screen
from runtime.secrets import read_secret
from runtime.wiring import settings_from
from verification.signing import sign
from verification.verifier import Verification

HELP = "print an example delivery that your settings let in"

# What each provider's documentation shows, and the headers that it sends besides.
EXAMPLES: dict[str, tuple[dict[str, str], dict[str, object]]] = {
    "loopz": (
        {
            "X-LOOPZ-WEBHOOK-TOPIC": "location.updated",
            "X-LOOPZ-MERCHANT-ID": "m-1",
            "X-LOOPZ-PROGRAM-ID": "p-1",
            "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID": "s-1",
        },
        {
            "id": "72b8ebd8-ea23-44a5-b8d1-b727d80ecd1a",
            "name": "My Location",
            "status": "ACTIVE",
            "type": "PHYSICAL",
        },
    ),
    "fitbank": (
        {},
        {
            "Method": "UpdatePurchaseClosedLoopStatusMongo",
            "BusinessUnitId": 66,
            "Status": "CanBePreAuthorized",
            "Date": "2024-08-19T18:59:15.403415-03:00",
            "TotalValue": "20.00",
            "TransactionIdentifier": "TRA8ca7fe5d-99ce-4071-aa6c-0cfb23ee6060TRA",
        },
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger sign`."""
    parser.add_argument("provider", choices=sorted(EXAMPLES))
    add_url(parser)
    parser.add_argument(
        "--body", metavar="FILE", type=argparse.FileType("rb"), help="a body of your own"
    )


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Print a curl line whose delivery passes the verification that the settings of this machine ask for.

    Raises SettingsError, UnsignableError.
    """
    settings = settings_from(os.environ)
    headers, example = EXAMPLES[given.provider]
    body = given.body.read() if given.body else msgspec.json.encode(example)
    verification = getattr(settings.providers.get(given.provider), "verification", Verification())
    path, signed = sign(
        verification, read_secret, given.provider, body, datetime.now(UTC), f"msg_{uuid4().hex}"
    )
    words = ["curl", "-i", given.url + path, "-H", "Content-Type: application/json"]
    for name, value in {**headers, **signed}.items():
        words += ["-H", f"{name}: {value}"]
    data = f"@{given.body.name}" if given.body else body.decode()
    # One line, to be copied.
    (screen or this_screen()).out.print(shlex.join([*words, "--data-binary", data]), soft_wrap=True)
    return DONE
