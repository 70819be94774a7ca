"""Schemathesis asks a server what its document offers, and what it does not, and compares the answers with it."""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from eventstore.keys import KeyScope
from eventstore.limits import Limits
from tests.conftest import StartLoopledger
from tests.support import ROOT, Client
from tests.support.keys import key_in

HOOKS = "tests.support.schemathesis_hooks"
CONFIG = Path(__file__).with_name("schemathesis.toml")

SCOPES: tuple[KeyScope, ...] = ("read", "reveal", "raw", "find", "operate", "metrics", "admin")

# As in the examples of the document, so that these find something.
ID = "72b8ebd8-ea23-44a5-b8d1-b727d80ecd1a"


async def deliver(client: Client) -> None:
    """Put one thing of each kind on record, an event that cannot be folded, and a rejection."""
    card = {"id": ID, "balance": {"amount": 7000, "currencyCode": "USD"}, "code": "ABCD-1234"}
    sale = {"id": ID, "type": "REDEEM", "amount": {"amount": 2000, "currencyCode": "USD"}}
    await client.loopz("gift-card.created", card)
    await client.loopz("gift-card.updated", {"id": ID, "balance": "much"})
    await client.loopz("transaction.created", sale)
    for number in range(17):
        await client.loopz("location.updated", {"id": ID, "name": f"Shop {number}"})
    await client.loopz("location.created", b"no JSON")


@pytest.mark.parametrize("with_key", [False, True], ids=["without keys", "with a key"])
async def test_no_answer_contradicts_the_document(
    start: StartLoopledger,
    dsn: str,
    tmp_path: Path,
    with_key: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    limits = Limits(poll_seconds=0.05, pool_connections=5, at_least_seconds=0.05)
    async with (
        start(answer_without_keys=not with_key, limits=limits) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        await deliver(Client(session))
        # A path like /search is one of a thing's, too: what Allow says, tests/web/test_documentation.py sees to. And
        # where everybody may read there is nobody to refuse.
        excluded = "allow_header_conformance"
        arguments = [
            "--exclude-checks",
            f"{excluded},ignored_auth",
            "--phases",
            "examples,coverage",
        ]
        if with_key:
            key = await key_in(dsn, *SCOPES)
            arguments = ["--exclude-checks", excluded, "--header", f"Authorization: Bearer {key}"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", "--no-color"),
            *("--checks", "all", "--generation-database", "none", *arguments),
            f"{loopledger.url}/openapi.json",
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": HOOKS},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    # Else nothing was compared.
    assert not with_key or "Authentication failed" not in output.decode()
