"""What /metrics answers: the values of all processes, and those of the database, in the formats of Prometheus."""

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


class Exposition(Collector):
    """Values, to be written in the format that is asked for."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def collect(self) -> Iterator[Family]:
        """Every metric that has a value, in the order of the table."""
        for name, metric in METRICS.items():
            if samples := self._values.get(name):
                yield _family(metric, sorted(samples.items()))

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The body in the format that fits an Accept header, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self), content_type


class MetricsReader:
    """Reads all metrics. `totals` gives those of the processes, or raises TimeoutError."""

    def __init__(self, totals: Callable[[], Awaitable[Values]], database: DatabaseValues) -> None:
        self._totals = totals
        self._database = database

    async def read(self) -> Exposition:
        """All of them; without those of the database, if that does not answer. Raises NotReportedError."""
        try:
            totals = await self._totals()
        except TimeoutError:
            raise NotReportedError from None
        return Exposition(merge([totals, await self._database.read()]))

    def close(self) -> None:
        """Stop reading the database."""
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
