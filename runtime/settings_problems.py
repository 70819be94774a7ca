"""What is wrong with a value of the settings, in words of the settings: which key, and what it must be.

msgspec tells that a value does not fit; its messages name Python's types, and may quote a secret.
"""

import difflib
import types
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import inspect

# The longest value that is quoted as it is.
LONGEST_QUOTED = 60


# Settings that there are no more, and what took their places.
RETIRED = {
    "insecure": "was split in two: accept_unverified takes deliveries that nothing verifies, "
    "answer_without_keys lets whoever reaches the server read",
}


class Problem(NamedTuple):
    """`key` is the one at fault, perhaps below the one that was looked at; `text` goes on from it."""

    key: str
    text: str


def convert(value: object, type_: Any) -> Any:  # noqa: ANN401 - whatever the type makes
    """Make a value of the settings what its type wants. Raises msgspec.ValidationError."""
    return msgspec.convert(value, type_, strict=False, dec_hook=_decode_path)


def find_problem(key: str, value: object, type_: Any) -> Problem:  # noqa: ANN401 - any type of a setting
    """Find what is wrong with a value that `convert` refuses.

    The value is quoted, unless it may be a secret.
    """
    type_ = _without_options(type_)
    kind = inspect.type_info(type_)
    if _is_of_kind(value, kind):
        known = _fields(type_)
        if known and isinstance(value, dict):
            for name in value:
                if name not in known:
                    return Problem(f"{key}.{name}", no_such_setting(name, known))
        for child, part, part_type in _parts(key, value, type_):
            try:
                convert(part, part_type)
            except msgspec.ValidationError:
                return find_problem(child, part, part_type)
        if known and isinstance(value, dict):
            return _problem_as_a_whole(key, value, type_)
        if not value:
            return Problem(key, "must not be empty")
    quoted = "" if _may_be_secret(key) else f", not {_quoted(value)}"
    return Problem(key, f"must be {_described(kind)}{quoted}")


def no_such_setting(name: str, known: Iterable[str]) -> str:
    """Say that there is no setting of this name, and which one may be meant."""
    if (successors := RETIRED.get(name.removeprefix("LOOPLEDGER_").lower())) is not None:
        return successors
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"is not a setting; did you mean {close[0]}?" if close else "is not a setting"


def _decode_path(type_: type, value: object) -> object:
    if type_ is not Path:
        raise NotImplementedError
    if not isinstance(value, str) or not value:
        raise ValueError
    return Path(value).expanduser()


def _without_options(type_: Any) -> Any:  # noqa: ANN401 - any type of a setting
    """What a type is when it is neither None nor bounded from outside: `Annotated[X | None, ...]` is X."""
    if get_origin(type_) in {Union, types.UnionType}:
        options = [option for option in get_args(type_) if option is not type(None)]
        if len(options) == 1:
            return _without_options(options[0])
    return type_


def _fields(type_: Any) -> dict[str, msgspec.structs.FieldInfo]:  # noqa: ANN401 - any type of a setting
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return {field.encode_name: field for field in msgspec.structs.fields(type_)}
    return {}


def _is_of_kind(value: object, kind: inspect.Type) -> bool:
    """Whether a value is a table where a table is wanted, or a list where a list is: then a part of it is wrong."""
    if isinstance(kind, inspect.StructType | inspect.DictType):
        return isinstance(value, dict)
    return isinstance(kind, inspect.VarTupleType) and isinstance(value, list)


def _parts(key: str, value: object, type_: Any) -> Iterator[tuple[str, object, Any]]:  # noqa: ANN401
    """What a table or a list is made of: the key, the value and the type of each part."""
    if get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    fields = _fields(type_)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield f"{key}[{index}]", item, get_args(type_)[0]
    elif isinstance(value, dict):
        for name, part in value.items():
            yield f"{key}.{name}", part, fields[name].type if fields else get_args(type_)[1]


def _problem_as_a_whole(key: str, value: dict[str, Any], type_: Any) -> Problem:  # noqa: ANN401
    """What is wrong with a table of which every part is right: one is missing, or they do not go together."""
    missing = [name for name, field in _fields(type_).items() if field.required]
    for name in missing:
        if name not in value:
            return Problem(f"{key}.{name}", "is missing")
    try:
        convert(value, type_)
    except msgspec.ValidationError as error:
        # What the type's own check says, without the place that msgspec adds.
        return Problem(key, f"is not right: {error.__cause__ or error}")
    raise AssertionError(key)


def _described(kind: inspect.Type) -> str:  # noqa: C901, PLR0911 - one case for each kind
    """What a value must be: "a whole number from 0 to 65535"."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_bounds(kind)}"
        case inspect.FloatType():
            return f"a number{_bounds(kind)}"
        case inspect.LiteralType():
            *most, last = map(str, kind.values)
            return f"{', '.join(most)} or {last}" if most else last
        case inspect.StrType():
            return "text in quotes"
        case inspect.DateTimeType():
            return "a time with an offset, like 2026-01-31T12:00:00Z"
        case inspect.CustomType():
            return "a path"
        case inspect.VarTupleType():
            return "a list, in the environment as JSON"
        case inspect.StructType() | inspect.DictType():
            return "a table, or in the environment a JSON object"
        case inspect.UnionType():
            return " or ".join(map(_described, kind.types))
        case _:
            raise TypeError(kind)


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    if kind.ge is not None:
        return f" of at least {kind.ge}"
    return f" greater than {kind.gt:g}" if kind.gt is not None else ""


def _may_be_secret(key: str) -> bool:
    return key == "key" or key.endswith("_url") or "verification" in key.split(".")


def _quoted(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST_QUOTED else value[:LONGEST_QUOTED] + "...")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)
