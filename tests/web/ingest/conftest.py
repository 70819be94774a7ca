"""A Loopledger whose deliveries are verified."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from providers import settings_types
from providers.loopz import Settings as LoopzSettings
from tests.conftest import StartLoopledger
from tests.support import Client
from tests.support.verified import SECRET, WHSEC, WithVerification


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_PATH", "a-path-secret-of-some-length")
    monkeypatch.setenv("DOOR_SECRET", SECRET)
    monkeypatch.setenv("DOOR_TOKEN", "a-token-of-some-length")
    monkeypatch.setenv("DOOR_WHSEC", WHSEC)


@pytest.fixture
def verified(
    start: StartLoopledger,
    secrets: None,  # noqa: ARG001 - it only has to be there
) -> WithVerification:
    """Start a Loopledger whose Loopz deliveries are verified so."""

    @asynccontextmanager
    async def start_one(verification: dict[str, Any], **changes: object) -> AsyncIterator[Client]:
        section = msgspec.convert({"verification": verification}, LoopzSettings)
        providers = {"loopz": section, "fitbank": settings_types()["fitbank"]()}
        async with (
            start(providers=providers, **changes) as loopledger,
            aiohttp.ClientSession(loopledger.url) as session,
        ):
            yield Client(session)

    return start_one
