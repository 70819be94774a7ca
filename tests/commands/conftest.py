"""A fake server for the commands that ask one."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_loopledger import FakeLoopledger
from tests.support.running_commands import Serve


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a fake server for a test."""
    started: list[FakeLoopledger] = []

    async def start(fake: FakeLoopledger) -> FakeLoopledger:
        started.append(fake)
        await fake.start()
        return fake

    yield start
    for fake in started:
        await fake.stop()
