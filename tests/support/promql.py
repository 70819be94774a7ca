"""PromQL, read: which samples an expression selects, and which labels its results have."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser
from promql_parser import AggModifierType, AggregateExpr, MatchOp, VectorSelector

from tests.support.metrics import Scrape

# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$instance": ".*"}

# Labels that Prometheus adds.
ADDED = frozenset({"instance", "job"})


class Selector(NamedTuple):
    """The samples of this name whose labels fit; `matchers` are label, operator, value."""

    name: str
    matchers: tuple[tuple[str, MatchOp, str], ...]

    def selects(self, scrape: Scrape) -> bool:
        """Whether it selects any sample. Labels that Prometheus adds are not there yet."""
        own = [each for each in self.matchers if each[0] not in ADDED]
        return any(
            name == self.name and all(_fits(dict(labels), *each) for each in own)
            for name, labels in scrape
        )


def _fits(labels: dict[str, str], name: str, op: MatchOp, value: str) -> bool:
    found = labels.get(name, "")
    fits = re.fullmatch(value, found) is not None
    if op == MatchOp.Equal or op == MatchOp.NotEqual:  # noqa: PLR1714 - it has no hash
        fits = found == value
    return not fits if op == MatchOp.NotEqual or op == MatchOp.NotRe else fits  # noqa: PLR1714


def parse(expression: str) -> promql_parser.Expr:
    """Parse an expression, with Grafana's variables filled in. Raises ValueError."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def selectors(expression: promql_parser.Expr) -> Iterator[Selector]:
    """What it selects."""
    for each in _nodes(expression):
        if isinstance(each, VectorSelector):
            matchers = each.matchers.matchers
            yield Selector(
                each.name or "", tuple((one.name, one.op, one.value) for one in matchers)
            )


def groupings(expression: promql_parser.Expr) -> Iterator[frozenset[str]]:
    """The labels of each aggregation: those of `by`, or of `without`."""
    for each in _nodes(expression):
        if isinstance(each, AggregateExpr):
            yield frozenset(each.modifier.labels if each.modifier else ())


def result_labels(expression: Any) -> frozenset[str] | None:  # noqa: ANN401 - of any type
    """The labels that results have; None for all of those that are selected."""
    if isinstance(expression, AggregateExpr):
        modifier = expression.modifier
        by = modifier is None or modifier.type == AggModifierType.By
        return frozenset(modifier.labels if modifier else ()) if by else None
    parts = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs")]
    parts += getattr(expression, "args", None) or []
    found = [result_labels(part) for part in parts if isinstance(part, promql_parser.Expr)]
    known = [labels for labels in found if labels is not None]
    return frozenset().union(*known) - {"le"} if known else None


def _nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(expression, nodes.append)
    return nodes
