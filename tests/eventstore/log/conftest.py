"""A log of the test's own."""

from collections.abc import AsyncIterator

import pytest

from eventstore.limits import Limits
from eventstore.postgres.database import Database
from tests.support.log import Log


@pytest.fixture
async def log(database: Database) -> AsyncIterator[Log]:
    """A log that is started, and hears of others at the latest after 50 ms."""
    found = Log(database, Limits(poll_seconds=0.05))
    await found.start()
    yield found
    await found.stop()
