"""A Struct becomes the columns of a table."""

import re
import types
import typing
from collections.abc import Container, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from eventstore.errors import UnstorableError

# As Postgres itself spells them (format_type), so that existing tables can be compared.
SQL_TYPES: Mapping[object, str] = {
    str: "text",
    int: "bigint",
    bool: "boolean",
    Decimal: "numeric",
    datetime: "timestamp with time zone",
}

# Bytes. An entry of a B-tree index has 2,704 at most, and may hold the stream beside the text.
LONGEST_INDEXED = 1_900

# Marks a field of a state that must be masked wherever it is shown: Annotated[str, SECRET].
SECRET = msgspec.Meta(extra={"secret": True})

# Marks a field of a state that only its fold needs: nobody is shown it.
HIDDEN = msgspec.Meta(extra={"hidden": True})


class Column(NamedTuple):
    """One field of a Struct as a column."""

    name: str
    sql_type: str
    nullable: bool = False
    secret: bool = False
    hidden: bool = False

    @property
    def definition(self) -> str:
        """The column in CREATE TABLE."""
        return f'"{self.name}" {self.sql_type}{"" if self.nullable else " NOT NULL"}'


def columns_of(struct: type[msgspec.Struct]) -> tuple[Column, ...]:
    """The columns for the fields of a Struct. Raises TypeError for a field whose type has no column type."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return tuple(
        _column(struct, field.encode_name, hints[field.name])
        for field in msgspec.structs.fields(struct)
    )


def _column(struct: type[msgspec.Struct], name: str, hint: Any) -> Column:  # noqa: ANN401 - a type expression
    secret = hidden = nullable = False
    while True:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            secret = secret or SECRET in args[1:]
            hidden = hidden or HIDDEN in args[1:]
            hint = args[0]
        elif origin in {typing.Union, types.UnionType} and types.NoneType in args:
            nullable = True
            (hint,) = (arg for arg in args if arg is not types.NoneType)
        elif origin is Literal:
            hint = type(args[0])
        else:
            break
    if hint not in SQL_TYPES:
        message = f"{struct.__name__}.{name}: no column type for {hint!r}"
        raise TypeError(message)
    return Column(identifier(name), SQL_TYPES[hint], nullable, secret, hidden)


def shown_columns_of(struct: type[msgspec.Struct]) -> tuple[Column, ...]:
    """The columns of a Struct that people see."""
    return tuple(column for column in columns_of(struct) if not column.hidden)


def identifier(name: str) -> str:
    """The name, if it may stand in SQL text unquoted. Raises ValueError if it may not."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,50}", name):
        message = f"{name!r} is not a plain SQL identifier"
        raise ValueError(message)
    return name


def names_of(columns: Iterable[Column]) -> str:
    """The columns' names as a list in SQL."""
    return ", ".join(f'"{column.name}"' for column in columns)


def values_of(columns: Iterable[Column]) -> str:
    """SQL for a row of these columns out of `new`, a JSON array of their values."""
    return ", ".join(f"(new ->> {n})::{column.sql_type}" for n, column in enumerate(columns))


def check_storable(struct: msgspec.Struct, indexed: Container[str] = ()) -> None:
    """Raise UnstorableError if Postgres would not take a value of `struct`; fields in `indexed` have to be short.

    It is checked before writing, since what is taken must not depend on whether it is written by INSERT or by COPY.
    """
    for name in struct.__struct_fields__:
        longest = LONGEST_INDEXED if name in indexed else None
        check_storable_value(name, getattr(struct, name), longest)


def check_storable_value(name: str, value: object, longest: int | None = None) -> None:
    """Raise UnstorableError if Postgres would not take the value of a field; `longest` is in bytes."""
    if isinstance(value, str):
        _check_text(name, value, longest)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UnstorableError(field=name, problem="is a number of more than 64 bits")


def _check_text(name: str, value: str, longest: int | None) -> None:
    if "\0" in value:
        raise UnstorableError(field=name, problem="holds a NUL character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UnstorableError(field=name, problem="holds a lone surrogate") from None
    if longest is not None and size > longest:
        raise UnstorableError(field=name, problem=f"is longer than {longest:,} bytes")


def mask(value: str | None) -> str | None:
    """Hide a secret but for its last four characters, by which people tell two apart; all of it if it is short."""
    if value is None:
        return None
    return "****" + (value[-4:] if len(value) >= 8 else "")  # noqa: PLR2004 - twice four
