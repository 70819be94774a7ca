"""A row of a list as JSON, made by Postgres: the one place that says how a value is written.

Decimals and times are texts, times are RFC 3339 in UTC, secrets are masked: just as msgspec writes the Struct that
describes the row. So one thing, a page, a stream and a whole list hold the same bytes for the same state.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eventstore.fold.generation import MASKING

# A function takes 100 arguments at most; each field is two of concat's.
FIELDS_PER_CALL = 40


class Field(NamedTuple):
    """A field of a row: its `name`, SQL for its value, the type of that, and whether it may be null or is a secret."""

    name: str
    expression: str
    sql_type: str
    nullable: bool = False
    secret: bool = False


def json_object(fields: Sequence[Field], *, revealed: bool) -> str:
    """SQL for the text of a JSON object of these fields, in their order; secrets are masked unless `revealed`."""
    parts: list[str] = []
    for first in range(0, len(fields), FIELDS_PER_CALL):
        arguments = []
        for n, field in enumerate(fields[first : first + FIELDS_PER_CALL], first):
            arguments += [f"""'{"," if n else "{"}"{field.name}":'""", json_value(field, revealed)]
        parts.append(f"concat({', '.join(arguments)})")
    return " || ".join([*parts, "'}'"])


def json_value(field: Field, revealed: bool) -> str:  # noqa: FBT001 - of its module only
    """SQL for the text of one value in JSON."""
    value = shown(field, revealed=revealed)
    if field.sql_type == "text":
        made = f"to_json({value})::text"
    elif field.sql_type == "timestamp with time zone":
        made = f"""'"' || {as_text(field, revealed=revealed)} || '"'"""
    elif field.sql_type in {"numeric", "uuid"}:
        made = f"""'"' || ({value})::text || '"'"""
    elif field.sql_type == "boolean":
        made = (
            f"CASE WHEN {value} THEN 'true' ELSE 'false' END"
            if not field.nullable
            else (f"CASE {value} WHEN true THEN 'true' WHEN false THEN 'false' END")
        )
    else:
        made = f"({value})::text"
    return f"coalesce({made}, 'null')" if field.nullable else made


def as_text(field: Field, *, revealed: bool) -> str:
    """SQL for a value as text, as it stands in JSON, without quotes; null if it is null."""
    value = shown(field, revealed=revealed)
    if field.sql_type == "timestamp with time zone":
        # Without a fraction that is zero, as msgspec leaves it out.
        text = f"""to_char(({value}) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
        return f"replace({text}, '.000000Z', 'Z')"
    return f"({value})::text"


def shown(field: Field, *, revealed: bool) -> str:
    """SQL for a value as it is shown."""
    if field.secret and not revealed:
        return MASKING.format(column=field.name)
    return field.expression


def text_columns(fields: Iterable[Field], *, revealed: bool) -> str:
    """SQL for these fields as columns of text, each under its name: for tables."""
    return ", ".join(f'{as_text(each, revealed=revealed)} AS "{each.name}"' for each in fields)
