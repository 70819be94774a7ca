"""The filters that a projection offers: from a typed value to a condition in SQL."""

import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from eventstore.fold.columns import SQL_TYPES, columns_of
from eventstore.fold.projection import Projection


class Filter(NamedTuple):
    """A filter by equality. `expression` is SQL for what has to equal a value of `type`, perhaps one of a Literal."""

    type: Any
    expression: str


# What tells the things of one id apart: whose each is, and which provider told of it.
OWNER_FILTERS: Mapping[str, Filter] = {
    name: Filter(str, f'"{name}"') for name in ("merchant_id", "provider")
}


def filters_of(projection: Projection[Any]) -> dict[str, Filter]:
    """The filters of a projection's lists, by name: its indexed columns, and `deleted` where things are deleted."""
    columns = {column.name: column for column in columns_of(projection.state)}
    hints = typing.get_type_hints(projection.state)
    types = {sql_type: type_ for type_, sql_type in SQL_TYPES.items() if isinstance(type_, type)}
    filters = {
        name: Filter(_literal_in(hints.get(name)) or types[columns[name].sql_type], f'"{name}"')
        for name in projection.indexes
    }
    if projection.tombstone is not None:
        filters["deleted"] = Filter(bool, f'("{projection.tombstone}" IS NOT NULL)')
    return filters


def _literal_in(hint: Any) -> Any:  # noqa: ANN401 - a type expression
    """The Literal that a type is, or is besides None: the words are ours then, and any other is a mistake."""
    options = [hint, *typing.get_args(hint)]
    return next((each for each in options if typing.get_origin(each) is typing.Literal), None)


def conditions(filters: Mapping[str, Filter], given: Mapping[str, object], first: int) -> str:
    """SQL that holds where every filter equals its value, each a parameter, from number `first` on."""
    return "".join(
        f" AND {filters[name].expression} = ${number}" for number, name in enumerate(given, first)
    )
