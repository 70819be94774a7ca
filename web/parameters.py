"""Parameters of a request become the fields of a Struct, checked: a misspelt one is an error, not silence."""

import asyncio
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, inspect
from multidict import CIMultiDictProxy, istr

from eventstore.limits import Limits
from web.errors import (
    BadBodyError,
    BadParameterError,
    MalformedHeaderError,
    TooLargeError,
    TooSlowError,
)

# Positions are bigint; this is the largest number of so many digits that is one, and no log gets there.
LARGEST = 10**18 - 1

# As many as any whole number within bounds has; a longer one takes long to read.
DIGITS = 19

# As much as any amount needs, and Postgres takes.
DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")

RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# The parameter `at_least` as a header, for a client that sends it with every request.
AT_LEAST = istr("At-Least")

# How much of a wrong value an error repeats, in characters.
REPEATED = 40

Position: TypeAlias = Annotated[int, Meta(ge=1, le=LARGEST, description="A position in the log.")]
PositionOrZero: TypeAlias = Annotated[int, Meta(ge=0, le=LARGEST)]

# `extra` names the fields of Limits that say what applies in this server.
PageLimit: TypeAlias = Annotated[
    int,
    Meta(
        ge=1,
        le=1_000,
        description="How many items the page has at most.",
        extra={"default": "page_items", "le": "page_items_max"},
    ),
]

P = TypeVar("P", bound=msgspec.Struct)


class Given(Protocol):
    """Parameters as they came, perhaps some of them more than once."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Every name with its value."""


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a list."""

    limit: PageLimit = 100


class ParameterReader(Generic[P]):
    """Reads parameters into a Struct of numbers, texts, times, booleans, given words, and lists of given words."""

    def __init__(self, struct: type[P], limits: Limits) -> None:
        self._struct = struct
        self._parsers: dict[str, Callable[[str], object]] = {}
        self._defaults: dict[str, object] = {}
        for field in _fields(struct):
            type_, extra = field.type, dict[str, Any]()
            if isinstance(type_, inspect.Metadata):
                extra = type_.extra or {}
                type_ = type_.type
            most = getattr(limits, extra["le"]) if "le" in extra else None
            self._parsers[field.encode_name] = partial(_parser(type_, most), field.encode_name)
            if "default" in extra:
                self._defaults[field.encode_name] = getattr(limits, extra["default"])

    def read(self, given: Given) -> P:
        """Check and read all of them. Raises BadParameterError if one is unknown, repeated or malformed."""
        values: dict[str, object] = {}
        for name, text in given.items():
            if (parse := self._parsers.get(name)) is None:
                known = ", ".join(sorted(self._parsers))
                problem = f"known are {known}" if known else "none is known"
                raise BadParameterError(parameter=name, problem=f"is unknown here; {problem}")
            if name in values:
                raise BadParameterError(parameter=name, problem="is given more than once")
            values[name] = parse(text)
        return self._struct(**{**self._defaults, **values})


def at_least_of(headers: CIMultiDictProxy[str]) -> int | None:
    """The position that a request names in its head; None if it does not. Raises MalformedHeaderError."""
    if AT_LEAST not in headers:
        return None
    (text, *more) = headers.getall(AT_LEAST)
    if more or not is_position(text):
        raise MalformedHeaderError(header=AT_LEAST)
    return int(text)


async def read_body(request: web.Request, struct: type[P], limits: Limits) -> P:
    """Read the JSON of a request's body. Raises BadBodyError, TooLargeError, TooSlowError."""
    limit = limits.api_body_bytes
    body = b""
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise TooLargeError(limit=limit)
    except TimeoutError:
        raise TooSlowError(seconds=limits.body_seconds) from None
    try:
        return msgspec.json.decode(body, type=struct)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBodyError(problem=str(error)) from None


def _fields(struct: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(struct)
    if not isinstance(info, inspect.StructType):
        raise TypeError(struct)
    return info.fields


def _parser(type_: inspect.Type, most: int | None) -> Callable[[str, str], object]:
    """What reads a parameter of this type, given its name and its text; `most` takes the place of its upper bound."""
    if isinstance(type_, inspect.UnionType):
        (type_,) = (each for each in type_.types if not isinstance(each, inspect.NoneType))
    match type_:
        case inspect.IntType(ge=int(least), le=int(bound)):
            return partial(_whole_number, least, bound if most is None else most)
        case inspect.DecimalType() | inspect.DateTimeType() | inspect.BoolType():
            return _SIMPLE[type(type_)]
        case inspect.StrType(min_length=shortest):
            return partial(_text, shortest or 0)
        case inspect.VarTupleType(item_type=inspect.LiteralType(values=values)):
            return partial(_words, tuple(map(str, values)))
        case inspect.LiteralType(values=values):
            return partial(_one_of, tuple(map(str, values)))
    message = f"no parameter can be of type {type_}"
    raise TypeError(message)


def is_position(text: str) -> bool:
    """Say whether a text is a whole number that a position could be."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST))


def _whole_number(least: int, most: int, name: str, text: str) -> int:
    digits = text[1:] if least < 0 and text.startswith("-") else text
    if digits.isascii() and digits.isdigit() and len(digits) <= DIGITS:
        number = int(text)
        if least <= number <= most:
            return number
    problem = f"must be a whole number from {least} to {most}, not {text[:REPEATED]!r}"
    raise BadParameterError(parameter=name, problem=problem)


def _flag(name: str, text: str) -> bool:
    if text in {"true", "false"}:
        return text == "true"
    raise BadParameterError(
        parameter=name, problem=f"must be true or false, not {text[:REPEATED]!r}"
    )


def _decimal(name: str, text: str) -> Decimal:
    if DECIMAL.fullmatch(text) is None:
        problem = f"must be a decimal number such as -12.50, not {text[:REPEATED]!r}"
        raise BadParameterError(parameter=name, problem=problem)
    return Decimal(text)


def _time(name: str, text: str) -> datetime:
    if RFC_3339.fullmatch(text) is not None:
        with suppress(ValueError):
            return datetime.fromisoformat(text).astimezone(UTC)
    example = "2026-10-31T00:00:00Z (RFC 3339; the + of an offset is written %2B in an address)"
    problem = f"must be a time such as {example}, not {text[:REPEATED]!r}"
    raise BadParameterError(parameter=name, problem=problem)


def _words(known: tuple[str, ...], name: str, text: str) -> tuple[str, ...]:
    words = tuple(_one_of(known, name, word) for word in text.split(","))
    if len(set(words)) < len(words):
        raise BadParameterError(parameter=name, problem="names one more than once")
    return words


def _one_of(words: tuple[str, ...], name: str, text: str) -> str:
    if text in words:
        return text
    *most, last = words
    allowed = f"{', '.join(most)} or {last}" if most else last
    raise BadParameterError(parameter=name, problem=f"must be {allowed}, not {text[:REPEATED]!r}")


def _text(shortest: int, name: str, text: str) -> str:
    """Let a text through if Postgres could hold it: else nothing can match it."""
    if len(text) < shortest:
        raise BadParameterError(parameter=name, problem="must not be empty")
    if "\x00" in text or text != text.encode("utf-8", "replace").decode():
        raise BadParameterError(
            parameter=name, problem="holds a character that nothing on record has"
        )
    return text


_SIMPLE: dict[type[inspect.Type], Callable[[str, str], object]] = {
    inspect.DecimalType: _decimal,
    inspect.DateTimeType: _time,
    inspect.BoolType: _flag,
}
