"""What /metrics answers: the values of all processes, and those of the database, in the formats of Prometheus."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from eventstore.metrics import Values
from runtime.metrics.database import DatabaseValues
from runtime.metrics.definitions import METRICS, Metric, merge
from web.errors import NotReportedError

# Seconds for which an answer is given again, however often it is asked for.
KEPT_SECONDS = 0.1

# A caller may name any version of the format: so many are remembered.
FORMATS_REMEMBERED = 4


class Exposition(Collector):
    """Values, to be written in the format that is asked for."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._written: dict[str, bytes] = {}

    def collect(self) -> Iterator[Family]:
        """Every metric that has a value, in the order of the table."""
        for name, metric in METRICS.items():
            if samples := self._values.get(name):
                yield _family(metric, sorted(samples.items()))

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The body in the format that fits an Accept header, and its content type."""
        encoder, content_type = choose_encoder(accept)
        if (body := self._written.get(content_type)) is None:
            body = encoder(self)
            if len(self._written) < FORMATS_REMEMBERED:
                self._written[content_type] = body
        return body, content_type


class MetricsReader:
    """Reads all metrics. `totals` gives those of the processes, or raises TimeoutError."""

    def __init__(self, totals: Callable[[], Awaitable[Values]], database: DatabaseValues) -> None:
        self._totals = totals
        self._database = database
        self._reading: asyncio.Task[Exposition] | None = None
        self._kept_until = 0.0

    async def read(self) -> Exposition:
        """All of them; without those of the database, if that does not answer. Raises NotReportedError."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() >= self._kept_until):
            reading = self._reading = asyncio.create_task(self._read(), name="metrics-read")
        return await asyncio.shield(reading)

    async def _read(self) -> Exposition:
        self._kept_until = 0.0
        try:
            totals = await self._totals()
        except TimeoutError:
            raise NotReportedError from None
        exposition = Exposition(merge([totals, await self._database.read()]))
        self._kept_until = time.monotonic() + KEPT_SECONDS
        return exposition

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
        self._database.close()


def _family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], list[float]]]) -> Family:
    name, help_, labels = metric.name, metric.help, metric.labels
    match metric.kind:
        case "histogram":
            histogram = HistogramMetricFamily(name, help_, labels=labels)
            for values, (*counts, total) in samples:
                bounds = [*map(str, metric.bounds), "+Inf"]
                cumulative = zip(bounds, accumulate(counts), strict=True)
                histogram.add_metric(values, list(cumulative), total)
            return histogram
        case "counter":
            counter = CounterMetricFamily(name, help_, labels=labels)
            for values, (number,) in samples:
                counter.add_metric(values, number)
            return counter
        case _:
            gauge = GaugeMetricFamily(name, help_, labels=labels)
            for values, (number,) in samples:
                gauge.add_metric(values, number)
            return gauge
