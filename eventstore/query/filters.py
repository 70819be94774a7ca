"""The filters that a projection offers: from a typed value to a condition in SQL."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from eventstore.fold.columns import SQL_TYPES, columns_of
from eventstore.fold.projection import Projection


class Filter(NamedTuple):
    """A filter by equality. `expression` is SQL for what has to equal a value of `type`."""

    type: type
    expression: str


# What tells the things of one id apart: whose each is, and which provider told of it.
OWNER_FILTERS: Mapping[str, Filter] = {
    name: Filter(str, f'"{name}"') for name in ("merchant_id", "provider")
}


def filters_of(projection: Projection[Any]) -> dict[str, Filter]:
    """The filters of a projection's lists, by name: its indexed columns, and `deleted` where things are deleted."""
    columns = {column.name: column for column in columns_of(projection.state)}
    types = {sql_type: type_ for type_, sql_type in SQL_TYPES.items() if isinstance(type_, type)}
    filters = {
        name: Filter(types[columns[name].sql_type], f'"{name}"') for name in projection.indexes
    }
    if projection.tombstone is not None:
        filters["deleted"] = Filter(bool, f'("{projection.tombstone}" IS NOT NULL)')
    return filters


def conditions(filters: Mapping[str, Filter], given: Mapping[str, object], first: int) -> str:
    """SQL that holds where every filter equals its value, each a parameter, from number `first` on."""
    return "".join(
        f" AND {filters[name].expression} = ${number}" for number, name in enumerate(given, first)
    )
