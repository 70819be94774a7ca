"""/metrics is read and written once, however many ask."""

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from runtime.metrics import exposition
from runtime.metrics.exposition import KEPT_SECONDS, MetricsReader
from web.errors import NotReportedError

if TYPE_CHECKING:
    from eventstore.metrics import Values
    from runtime.metrics.database import DatabaseValues


class NoDatabase:
    """One that has no values."""

    async def read(self) -> "Values":
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to stop."""


class Processes:
    """Counts how often their values are asked for."""

    def __init__(self, *, silent: bool = False) -> None:
        self.asked = 0
        self.silent = silent

    async def totals(self) -> "Values":
        """None of any interest."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.silent:
            raise TimeoutError
        return {}


def reader_of(processes: Processes) -> MetricsReader:
    return MetricsReader(processes.totals, cast("DatabaseValues", NoDatabase()))


async def test_whoever_asks_at_once_or_shortly_after_gets_the_same_answer() -> None:
    processes = Processes()
    reader = reader_of(processes)
    found = await asyncio.gather(*(reader.read() for _ in range(20)))
    found.append(await reader.read())
    assert len(set(map(id, found))) == processes.asked == 1
    await asyncio.sleep(1.5 * KEPT_SECONDS)
    assert await reader.read() is not found[0]


async def test_an_answer_is_written_once_for_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def counting(accept: str) -> tuple[object, str]:
        encoder, content_type = choose_encoder(accept)

        def write(values: Collector) -> bytes:
            written.append(accept)
            return encoder(values)

        return write, content_type

    monkeypatch.setattr(exposition, "choose_encoder", counting)
    found = await reader_of(Processes()).read()
    openmetrics = "application/openmetrics-text; version=1.0.0"
    assert found.encode("") == found.encode("")
    assert found.encode(openmetrics) == found.encode(openmetrics) != found.encode("")
    assert written == ["", openmetrics]


async def test_a_failure_is_not_kept() -> None:
    processes = Processes(silent=True)
    reader = reader_of(processes)
    with pytest.raises(NotReportedError):
        await reader.read()
    processes.silent = False
    await reader.read()
    assert processes.asked == 2
