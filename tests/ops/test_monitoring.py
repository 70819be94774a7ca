"""The dashboard and the alerts of ops/: each names only what /metrics exposes, and finds it there."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
import yaml

from providers import settings_types
from providers.loopz import Settings as LoopzSettings
from runtime.metrics.definitions import METRICS
from tests.conftest import StartLoopledger
from tests.support import ROOT, Client
from tests.support.metrics import parse as parse_metrics
from tests.support.promql import ADDED, groupings, parse, result_labels, selectors

DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "ops" / "grafana" / "loopledger.json").read_text("utf-8")
)
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "ops" / "prometheus" / "alerts.yml").read_text("utf-8"))[
        "groups"
    ]
    for rule in group["rules"]
]

# What Prometheus itself has of every server.
OF_PROMETHEUS = {"up": frozenset[str]()}

LABELS = OF_PROMETHEUS | {
    sample: frozenset(metric.labels) | ({"le"} if sample.endswith("_bucket") else frozenset())
    for name, metric in METRICS.items()
    for sample in (
        [f"{name}_bucket", f"{name}_count", f"{name}_sum"] if metric.kind == "histogram" else [name]
    )
}


class Query(NamedTuple):
    """An expression, where it stands, and the labels that the text beside it names."""

    place: str
    expression: str
    named: frozenset[str]


def queries() -> Iterator[Query]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            named = re.findall(r"{{(\w+)}}", target["legendFormat"])
            yield Query(panel["title"], target["expr"], frozenset(named))
    for annotation in DASHBOARD["annotations"]["list"]:
        named = re.findall(r"{{(\w+)}}", annotation["titleFormat"])
        yield Query(annotation["name"], annotation["expr"], frozenset(named))
    for variable in DASHBOARD["templating"]["list"]:
        if found := re.fullmatch(r"label_values\((.*), (\w+)\)", variable.get("definition", "")):
            yield Query(variable["name"], found[1], frozenset({found[2]}))
    for rule in ALERTS:
        text = " ".join(rule["annotations"].values())
        named = re.findall(r"\$labels\.(\w+)", text)
        yield Query(rule["alert"], rule["expr"], frozenset(named))


QUERIES = list(queries())


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_a_query_names_only_metrics_and_labels_that_exist(query: Query) -> None:
    expression = parse(query.expression)
    known: set[str] = set(ADDED)
    for selector in selectors(expression):
        assert selector.name in LABELS
        labels = LABELS[selector.name] | ADDED
        assert {name for name, _, _ in selector.matchers} <= labels
        known |= labels
    for grouping in groupings(expression):
        assert grouping <= known
    result = result_labels(expression)
    assert query.named <= (known if result is None else result)


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    selected = {
        selector.name for query in QUERIES for selector in selectors(parse(query.expression))
    }
    unused = [
        name
        for name in METRICS
        if not selected & {name, f"{name}_bucket", f"{name}_count", f"{name}_sum"}
    ]
    # How old the newest event is tells nothing that the deliveries by provider do not.
    assert unused == ["loopledger_log_last_recorded_timestamp_seconds"]


async def test_every_query_finds_samples_in_what_a_server_answers(
    start: StartLoopledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPZ_TOKEN", "a-token-of-some-length")
    verification = {"tokens": {"secrets": [{"env": "LOOPZ_TOKEN"}]}}
    section = msgspec.convert({"verification": verification}, LoopzSettings)
    providers = {"loopz": section, "fitbank": settings_types()["fitbank"]()}
    async with (
        start(providers=providers) as loopledger,
        aiohttp.ClientSession(loopledger.url) as session,
    ):
        client = Client(session)
        token = {"Authorization": "Bearer a-token-of-some-length"}
        accepted = await client.loopz("location.updated", {"id": "l-1"}, headers=token)
        assert accepted.status == 200
        await client.get("/v1/locations?at_least=1")
        await client.request("POST", "/v1/projections/locations/rebuild")
        status = None
        while status != "ready":
            status = (await client.get("/v1/projections/locations/rebuild")).json["status"]
        scrape = parse_metrics((await client.get("/metrics")).body.decode())
    # The parent process counts restarts, and this server has none.
    absent = {*OF_PROMETHEUS, "loopledger_worker_restarts_total"}
    empty = [
        (query.place, selector)
        for query in QUERIES
        for selector in selectors(parse(query.expression))
        if selector.name not in absent and not selector.selects(scrape)
    ]
    assert empty == []


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["annotations"]["action"].endswith(".")


def test_every_panel_asks_the_data_source_that_is_chosen_and_none_covers_another() -> None:
    covered: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            sources = [panel["datasource"], *(each["datasource"] for each in panel["targets"])]
            assert all(each["uid"] == "${datasource}" for each in sources)
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered, panel["title"]
        assert place["x"] + place["w"] <= 24
        covered |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
