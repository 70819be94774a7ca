"""How quickly a rebuild is looked after."""

import pytest

from runtime import wiring
from tests.support.rebuilding import QuickBuilderPool, hurry


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in this process, and look often."""
    monkeypatch.setattr(wiring, "BuilderPool", QuickBuilderPool)
    hurry(monkeypatch)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, with builder processes as they are."""
    hurry(monkeypatch)
