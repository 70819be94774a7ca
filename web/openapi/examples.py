"""Examples: values that fit a schema, as they could be of a real programme. None is anybody's."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

import msgspec

from eventstore.errors import LoopledgerError

TIME = "2026-10-31T12:00:00Z"

# What a field or a parameter of this name has in examples; one without is made up from its type.
BY_NAME: Mapping[str, object] = {
    "about": "A state store for webhooks.",
    "address": "203.0.113.7",
    "advice": None,
    "amount": "20.00",
    "amount_minor": 2000,
    "balance": 7000,
    "balance_major": "70.00",
    "body": "/v1/rejections/1/body",
    "by": ["currency"],
    "cause": "UNPARSABLE",
    "changes": {"status": {"before": None, "after": "ACTIVE"}},
    "checkpoint": 5210,
    "code": "****1234",
    "columns": {"kind": 12},
    "currency": "USD",
    "deleted": False,
    "deleted_at": None,
    "diff": None,
    "digest": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "error": None,
    "expires_at": None,
    "external_id": None,
    "gan": "****5678",
    "generation": 1,
    "head": 5210,
    "headers": [["Content-Type", "application/json"]],
    "id": "72b8ebd8-ea23-44a5-b8d1-b727d80ecd1a",
    "key": "llk_0000000000000000000000000000000000000",
    "lag": 0,
    "merchant_id": "m-1",
    "merchants": None,
    "minor_units": 2,
    "name": "Corner shop",
    "next": None,
    "paths": ["GET /v1/gift-cards"],
    "percent": 100.0,
    "position": 17,
    "problem": "expecting value",
    "program_id": "p-1",
    "provider": "loopz",
    "reason": None,
    "reference": "order-1042",
    "retired_at": None,
    "scopes": ["read"],
    "secret": "in-the-settings",
    "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "status": "ACTIVE",
    "stream": "loopz/m-1/location/72b8ebd8-ea23-44a5-b8d1-b727d80ecd1a",
    "timeline": 1,
    "topic": "location.updated",
    "type": "PHYSICAL",
    "version": "0.1.0",
}

# The facts of errors in examples, by their names.
FACTS: Mapping[str, object] = {
    "available": "application/json, text/csv, application/x-ndjson",
    "checkpoint": 16,
    "deliveries": 10_000,
    "encoding": "gzip",
    "expectation": "200-ok",
    "field": "the topic",
    "generation": 2,
    "head": 17,
    "header": "Host",
    "holders": [{"provider": "loopz", "merchant_id": "m-1"}],
    "id": 1,
    "limit": 1_000,
    "name": "reports",
    "offset": 11,
    "parameter": "limit",
    "path": "/v1/events",
    "position": 17,
    "problem": "see the detail",
    "progress": "building",
    "projection": "gift_cards",
    "provider": "loopz",
    "scope": "read",
    "seconds": 10,
    "size": 1_048_576,
    "what": "event at position 17",
}

# The same of single errors, by the names of their classes.
FACTS_OF: Mapping[str, Mapping[str, object]] = {
    "BadBodyError": {"problem": "Object missing required field `name`"},
    "BadParameterError": {"problem": "must be a whole number from 1 to 1000, not 'abc'"},
    "CutShortError": {"problem": "51 of 200 bytes came"},
    "ForeignError": {"what": "from a page in a browser"},
    "InvalidKeyError": {"problem": "is mistyped"},
    "MalformedError": {"problem": "the request line is no request line"},
    "NotRetriableError": {"problem": "it is in the log, or being tried"},
    "NotSwitchedError": {"problem": "it was discarded."},
    "RefusedError": {"problem": "the value is too long"},
    "TooLargeError": {"limit": 1_048_576},
    "UnavailableError": {"problem": "Postgres does not answer"},
    "UnidentifiedError": {"what": "the header X-LOOPZ-WEBHOOK-TOPIC", "problem": "is missing"},
    "UnparsableError": {"problem": "expecting value"},
    "UnverifiedError": {"problem": "the signature is not that of this body"},
    "AmbiguousError": {"what": "id '42'"},
}

# What a format says of a text.
BY_FORMAT: Mapping[str, str] = {
    "date-time": TIME,
    "decimal": "20.00",
    "uuid": "0b54ba4a-5a3e-4a0f-9a3b-6b8f0f6f3a52",
}


def example_of(schema: Mapping[str, Any], components: Mapping[str, Any], name: str = "") -> Any:  # noqa: ANN401 - JSON
    """A value that fits a schema, as a field of this name could have it."""
    if (reference := schema.get("$ref")) is not None:
        return example_of(components[reference.rpartition("/")[2]], components, name)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return example_of(options[0], components, name)
    told = [*schema.get("examples", ())]
    if name in BY_NAME and _fits(BY_NAME[name], schema):
        told.append(BY_NAME[name])
    told += schema.get("enum", ())
    if schema.get("default") is not None:
        told.append(schema["default"])
    return told[0] if told else _made_up(schema, components, name)


def _made_up(schema: Mapping[str, Any], components: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - JSON
    """A value of the type that a schema has."""
    match _types(schema)[0]:
        case "object":
            return _object(schema, components)
        case "array":
            items = schema.get("prefixItems") or ([schema["items"]] if "items" in schema else [])
            return [example_of(each, components) for each in items]
        case "string":
            return BY_FORMAT.get(schema.get("format", ""), name.replace("_", "-") or "text")
        case other:
            return {
                "integer": max(1, schema.get("minimum", 1)),
                "number": 1.0,
                "boolean": False,
            }.get(other)


def problem_example(error: type[LoopledgerError]) -> dict[str, object]:
    """The facts of an error with values that fit, and the `detail` that they make."""
    fields = Formatter().parse(error.message)
    names = dict.fromkeys(name for _, name, _, _ in fields if name)
    known = {**FACTS, **FACTS_OF.get(error.__name__, {})}
    facts = {name: known.get(name, name.replace("_", " ")) for name in names}
    return {**facts, "detail": str(error(**facts))}


def _object(schema: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        name: example_of(each, components, name)
        for name, each in schema.get("properties", {}).items()
    }
    more = schema.get("additionalProperties")
    if not found and isinstance(more, Mapping):
        return {"name": example_of(more, components)}
    return found


def _types(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type", "null")
    return types if isinstance(types, list) else [types]


def _fits(value: object, schema: Mapping[str, Any]) -> bool:
    """Say whether a value is of a type that a simple schema has, in its form and bounds."""
    if "enum" in schema:
        return value in schema["enum"]
    if "$ref" in schema or "anyOf" in schema:
        return False
    json_type = {
        type(None): "null",
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }[type(value)]
    form = schema.get("format")
    if isinstance(value, str) and form in {"date-time", "uuid"}:
        return False
    if json_type == "array":
        items = schema.get("items")
        return "array" in _types(schema) and (
            not items or all(_fits(each, items) for each in msgspec.convert(value, list))
        )
    return json_type in _types(schema) or "type" not in schema
