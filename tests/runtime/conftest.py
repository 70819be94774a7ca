"""A log of each test's own: what it configures holds for nothing that comes after."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog


@pytest.fixture(autouse=True)
def log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what is configured; no logger is kept that writes where this test's output goes."""
    configure = structlog.configure

    def configure_for_now(**settings: Any) -> None:  # noqa: ANN401 - passed on
        configure(**settings | {"cache_logger_on_first_use": False})

    before = structlog.get_config()
    monkeypatch.setattr(structlog, "configure", configure_for_now)
    yield
    configure(**before)
