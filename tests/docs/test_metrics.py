"""The table of metrics in docs/operations.md, and that of the code, say the same."""

import re

from runtime.metrics.definitions import METRICS
from tests.support import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
ROW = re.compile(r"^\| `(loopledger_\w+)` \| (.*?) ?\| (\w+) \| (.+) \|$", re.MULTILINE)


def test_the_table_lists_every_metric_with_its_kind_and_its_labels_and_no_other() -> None:
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, labels, kind, _ in ROW.findall(PAGE)
    }
    assert documented == {name: (one.kind, one.labels) for name, one in METRICS.items()}


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert re.fullmatch(r"loopledger(_[a-z]+)+", name), name
        assert not re.search(r"_(milliseconds|ms|minutes|kilobytes|kb|mib|percent)\b", name), name
        assert metric.help.endswith("."), name
