"""What the list of a projection's states offers: its fields, filters and sorts."""

import typing
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from eventstore.fold.columns import SQL_TYPES, Column, columns_of, identifier, shown_columns_of
from eventstore.fold.generation import EFFECTIVE_AT, SCHEMA
from eventstore.fold.indexes import TIE_BREAKER, beginning, quoted, sort_key, words
from eventstore.fold.projection import STATE_COLUMNS, Projection
from eventstore.query.listing import Filter, Key, Listing
from eventstore.query.money import NO_UNITS, UnitsByProvider, money_fields
from eventstore.query.queries import QUERIES
from eventstore.query.row_json import Field

# A whole number that Postgres can hold.
Whole: TypeAlias = Annotated[int, Meta(ge=-(10**18), le=10**18)]

# Which things a list has: those that are there, those that are deleted, or all.
Deleted: TypeAlias = Literal["false", "true", "any"]

Searched: TypeAlias = Annotated[str, Meta(min_length=1)]

# Behind every text that begins as it does.
_LAST = chr(0x10FFFF)

STREAM = Key("stream", "text")
POSITION = Key("position", "bigint")


@cache
def states_listing(projection: Projection[Any], units: UnitsByProvider = NO_UNITS) -> Listing:
    """The list of the states of a projection's live generation. `units`: what the minor units of currencies are."""
    return Listing(
        name=projection.name,
        query="list_states",
        words={"table": f"{SCHEMA}.{identifier(projection.name)}"},
        version=QUERIES["generation_of"].format(name=identifier(projection.name)),
        fields={field.name: field for field in _fields(projection, units)},
        filters=filters_of(projection),
        sorts=sorts_of(projection),
        merchant=None if projection.tenant is None else quoted(projection.tenant),
    )


@cache
def secrets_listing(projection: Projection[Any], units: UnitsByProvider = NO_UNITS) -> Listing:
    """The same list, by the exact value of a secret."""
    filters = {
        name: Filter(str, f"{quoted(name)} = {{0}}", f"The whole `{name}`.")
        for name in projection.secrets
    }
    return msgspec.structs.replace(states_listing(projection, units), filters=filters)


def _fields(projection: Projection[Any], units: UnitsByProvider) -> list[Field]:
    columns: list[Column] = [*STATE_COLUMNS, *shown_columns_of(projection.state)]
    if projection.effective_at:
        columns.append(EFFECTIVE_AT)
    fields = [
        Field(each.name, quoted(each.name), each.sql_type, each.nullable, each.secret)
        for each in columns
    ]
    return fields if projection.money is None else [*fields, *money_fields(projection.money, units)]


def sorts_of(projection: Projection[Any]) -> dict[str, tuple[Key, ...]]:
    """What the states of a projection can be sorted by; no two of them are equal in all keys."""
    types = {column.name: column.sql_type for column in columns_of(projection.state)}
    tie_breakers = (Key(TIE_BREAKER, "bigint"), STREAM)
    sorts: dict[str, tuple[Key, ...]] = {projection.key: (STREAM,), "position": (POSITION,)}
    if projection.effective_at:
        key = sort_key(quoted(EFFECTIVE_AT.name), EFFECTIVE_AT.sql_type)
        sorts[EFFECTIVE_AT.name] = (Key(key, EFFECTIVE_AT.sql_type), *tie_breakers)
    for name in projection.ranges:
        sorts[name] = (Key(sort_key(quoted(name), types[name]), types[name]), *tie_breakers)
    return sorts


def filters_of(projection: Projection[Any]) -> dict[str, Filter]:
    """The filters of a projection's lists, by name."""
    columns = {column.name: column for column in columns_of(projection.state)}
    hints = typing.get_type_hints(projection.state)
    types = {sql_type: type_ for type_, sql_type in SQL_TYPES.items() if isinstance(type_, type)}
    filters = {
        name: Filter(
            _literal_in(hints.get(name)) or types[columns[name].sql_type],
            f"{beginning(name) if name in projection.references else quoted(name)} = {{0}}",
            f"Only where `{name}` is this.",
        )
        for name in projection.indexes
    }
    for name in projection.ranges:
        filters |= _range_of(columns[name])
    filters |= _times_of(projection)
    if projection.names or projection.references:
        filters["search"] = _search_of(projection)
    if (tombstone := projection.tombstone) is not None:
        filters["deleted"] = Filter(
            Deleted,
            {
                "false": f"{quoted(tombstone)} IS NULL",
                "true": f"{quoted(tombstone)} IS NOT NULL",
                "any": "true",
            },
            "Whether it is deleted; `any`: both.",
            default="false",
        )
    return filters


def _literal_in(hint: Any) -> Any:  # noqa: ANN401 - a type expression
    """The Literal that a type is, or is besides None: the words are ours then, and any other is a mistake."""
    options = [hint, *typing.get_args(hint)]
    return next((each for each in options if typing.get_origin(each) is typing.Literal), None)


def _range_of(column: Column) -> dict[str, Filter]:
    """The filters for the least and the most of a number. What has none is in no range."""
    key = sort_key(quoted(column.name), column.sql_type)
    nothing = sort_key("NULL", column.sql_type)
    type_: Any = Whole if column.sql_type == SQL_TYPES[int] else Decimal
    return {
        f"min_{column.name}": Filter(
            type_, f"{key} >= {{0}}", f"Only where `{column.name}` is this or more."
        ),
        f"max_{column.name}": Filter(
            type_,
            f"({key} <= {{0}} AND {key} > {nothing})",
            f"Only where `{column.name}` is this or less.",
        ),
    }


def _times_of(projection: Projection[Any]) -> dict[str, Filter]:
    """The filters for when a state changed last: as it was recorded, and as the provider says."""
    filters = recorded_filters("the event that changed it last was recorded")
    if projection.effective_at:
        key = sort_key(quoted(EFFECTIVE_AT.name), EFFECTIVE_AT.sql_type)
        nothing = sort_key("NULL", EFFECTIVE_AT.sql_type)
        filters["effective_since"] = Filter(
            datetime, f"{key} >= {{0}}", "Only where `effective_at` is this time or later."
        )
        filters["effective_before"] = Filter(
            datetime,
            f"({key} < {{0}} AND {key} > {nothing})",
            "Only where `effective_at` is before this time.",
        )
    return filters


def recorded_filters(what: str, position: str = "position") -> dict[str, Filter]:
    """The filters for when something was recorded. The order of recorded times is that of positions."""
    return {
        "recorded_since": Filter(
            datetime,
            f"{position} >= {{0}}",
            f"Only if {what} at this time or later.",
            by_recorded=True,
        ),
        "recorded_before": Filter(
            datetime,
            f"{position} < {{0}}",
            f"Only if {what} before this time.",
            by_recorded=True,
        ),
    }


def _search_of(projection: Projection[Any]) -> Filter:
    """The filter for words of a name, or for the beginning of a reference."""
    # Bounds come before the words, which not every projection has.
    conditions = [
        f"({beginning(name)} >= {{0}} AND {beginning(name)} < {{1}})"
        for name in projection.references
    ]
    told = [f"`{name}` begins with this" for name in projection.references]
    number = 2 if projection.references else 0
    conditions += [
        f"{words(name)} @@ to_tsquery('simple', {{{number}}})" for name in projection.names
    ]
    told += [f"words of `{name}` are or begin with all of these" for name in projection.names]

    def prepare(text: str) -> list[str]:
        bounds = [text, text + _LAST] if projection.references else []
        return [*bounds, _word_query(text)] if projection.names else bounds

    return Filter(
        Searched,
        f"({' OR '.join(conditions)})",
        f"Only where {'; or '.join(told)}.",
        prepare=prepare,
    )


def _word_query(text: str) -> str:
    """All words of a text, or what begins with them, as Postgres takes a query."""
    plain = text.replace("\\", " ").replace("'", " ").split()
    return " & ".join(f"'{word}':*" for word in plain)
