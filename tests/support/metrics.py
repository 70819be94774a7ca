"""What /metrics answers, as numbers."""

from collections.abc import Mapping
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

# The value of each sample, by its name and its labels.
Scrape: TypeAlias = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Scrape:
    """Read the text format."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(scrape: Scrape, name: str, **labels: str) -> float:
    """The sum of the samples of this name, Loopledger's prefix left out, that have these labels."""
    wanted = set(labels.items())
    found = [
        value
        for (sample, given), value in scrape.items()
        if sample == f"loopledger_{name}" and wanted <= given
    ]
    assert found, (name, labels)
    return sum(found)
