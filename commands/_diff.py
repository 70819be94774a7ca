"""How a rebuilt generation differs from the live one, for whoever decides whether to promote it."""

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from commands._screen import table, visible
from eventstore.fold.status import (
    ChangedRow,
    Diff,
    GenerationStatus,
    Rebuild,
    Rows,
    TableChange,
    TotalChange,
)

# Columns in cents: whole numbers, which must not be taken for dollars (docs/api.md).
MINOR_UNITS = frozenset({"balance"})

ADDED, GONE, CHANGED = "green", "red", "yellow"


def comparison(live: GenerationStatus, rebuild: Rebuild, diff: Diff) -> RenderableType:
    """A whole diff: counts, columns, totals and examples."""
    heading = (
        f"{rebuild.name}: generation {rebuild.generation} (new) against generation "
        f"{live.generation} (live), {_where(diff)}"
    )
    sections: list[RenderableType] = [_section(heading, _counts(live, rebuild, diff))]
    if diff.is_empty:
        sections.append(Text("No differences.", ADDED))
    if diff.columns:
        sections.append(_section("Columns that differ", _columns(diff.columns)))
    if diff.totals and diff.totals.items:
        unit = ", in minor units (cents)" if diff.totals.amount in MINOR_UNITS else ""
        sections.append(_section(f"Totals of {diff.totals.amount}{unit}", _totals(diff.totals)))
    if diff.sample:
        differing = diff.rows.added + diff.rows.gone + diff.rows.changed
        some = f" ({len(diff.sample)} of {differing:,})" if len(diff.sample) < differing else ""
        title = f"Rows that differ{some}"
        sections.append(_section(title, Group(*map(_example, diff.sample))))
    return Group(*(part for section in sections for part in ("", section)), "")


def _where(diff: Diff) -> str:
    if diff.live_position in {None, diff.position}:
        return f"both at position {diff.position:,}"
    return f"at position {diff.position:,}; the live one is stopped at {diff.live_position:,}"


def _section(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), Padding(content, (0, 0, 0, 2), expand=False))


def _counts(live: GenerationStatus, rebuild: Rebuild, diff: Diff) -> RenderableType:
    result = table(texts=("",), numbers=("before", "after", "added", "gone", "changed"))
    counted: list[tuple[str, Rows | TableChange]] = [("rows", diff.rows)]
    counted += [(each.name, each) for each in (diff.timeline, diff.postings) if each is not None]
    for name, rows in counted:
        result.add_row(
            name,
            f"{rows.before:,}",
            f"{rows.after:,}",
            _count(rows.added, ADDED),
            _count(rows.gone, GONE),
            _count(rows.changed, CHANGED),
        )
    if diff.refiled.before or diff.refiled.after:
        result.add_row("refiled events", f"{diff.refiled.before:,}", f"{diff.refiled.after:,}")
    before, after = live.quarantined, rebuild.quarantined
    worse = GONE if after > before else ADDED if after < before else ""
    result.add_row("quarantined events", f"{before:,}", Text(f"{after:,}", worse))
    return result


def _columns(columns: dict[str, int]) -> RenderableType:
    result = table(texts=("column",), numbers=("rows",))
    for name, count in sorted(columns.items(), key=lambda item: (-item[1], item[0])):
        result.add_row(name, _count(count, CHANGED))
    return result


def _totals(totals: TotalChange) -> RenderableType:
    result = table(texts=tuple(totals.by), numbers=("before", "after", "change"))
    minor = totals.amount in MINOR_UNITS
    for item in totals.items:
        change = money(item.get("change"), minor=minor, signed=True)
        result.add_row(
            *(_value(item.get(name)) for name in totals.by),
            money(item.get("before"), minor=minor),
            money(item.get("after"), minor=minor),
            Text(change, CHANGED if change.startswith(("+", "-")) else "dim"),
        )
    return result


def _example(example: ChangedRow) -> RenderableType:
    line = Text(overflow="fold")
    line.append(visible(example.stream), "bold")
    separator = ": "
    for column, change in example.changes.items():
        line.append(f"{separator}{column} ")
        line.append(_value(change.before), GONE)
        line.append(" -> ")
        line.append(_value(change.after), ADDED)
        separator = ", "
    if example.diverged_at is not None:
        line.append(f" (since event {example.diverged_at})", "dim")
    return line


def money(value: Any, *, minor: bool, signed: bool = False) -> str:  # noqa: ANN401 - JSON: text, a number, or null
    """Write an amount: 1,234.50, or whole minor units; with its sign, if it is a change. Null is nothing."""
    try:
        amount = Decimal(str(value)) if value is not None else Decimal(0)
    except InvalidOperation:
        return _value(value)
    exponent = amount.normalize().as_tuple().exponent
    places = 0 if minor else 2
    if isinstance(exponent, int):
        places = max(places, -exponent)
    return f"{amount:{'+' if signed and amount else ''},.{places}f}"


def _count(number: int, style: str) -> Text:
    return Text(f"{number:,}", style if number else "dim")


def _value(value: Any) -> str:  # noqa: ANN401 - whatever a column holds
    if isinstance(value, str) and value:
        return visible(value)
    return msgspec.json.encode(value).decode()
