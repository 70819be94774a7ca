"""The parameters of a route, in its path, its query and its headers, with the bounds that are in force."""

from typing import Any

import msgspec
from msgspec import inspect

from eventstore.limits import Limits
from web.openapi.examples import example_of
from web.openapi.schemas import JsonObject, add_time_formats
from web.parameters import DECIMAL
from web.route import Route

# What nothing on record holds, and no parameter may.
NO_NUL = r"^[^\x00]*$"


def parameters_of(route: Route, limits: Limits) -> list[JsonObject]:
    """Every parameter of a route."""
    places = (("path", route.path_parameters), ("query", route.query), ("header", route.headers))
    return [
        _parameter(place, name, schema, required=place == "path" or name in required)
        for place, struct in places
        for properties, required in [_properties_of(struct, limits)]
        for name, schema in properties.items()
    ]


def _parameter(place: str, name: str, schema: JsonObject, *, required: bool) -> JsonObject:
    found: JsonObject = {"name": name, "in": place, "required": required}
    if (description := schema.pop("description", None)) is not None:
        found["description"] = description
    if schema.get("type") == "array":
        # Words with commas between them, each but once.
        schema |= {"minItems": 1, "uniqueItems": True}
        found |= {"style": "form", "explode": False}
    found["schema"] = schema
    if place == "path":
        found["example"] = example_of(schema, {}, name)
    return found


def _properties_of(
    struct: type[msgspec.Struct], limits: Limits
) -> tuple[dict[str, JsonObject], frozenset[str]]:
    """The schema of each field of a Struct, and which have to be given."""
    whole = msgspec.json.schema(struct)
    whole = whole["$defs"][whole["$ref"].rpartition("/")[2]]
    properties = {name: _without_null(each) for name, each in whole["properties"].items()}
    info = inspect.type_info(struct)
    add_time_formats(properties, info)
    for schema in properties.values():
        if schema.get("format") == "decimal":
            schema["pattern"] = f"^{DECIMAL.pattern}$"
        if schema.get("type") == "string" and not {"format", "pattern", "enum"} & set(schema):
            schema["pattern"] = NO_NUL
    for field in getattr(info, "fields", ()):
        extra = getattr(field.type, "extra", None) or {}
        if "le" in extra:
            properties[field.encode_name]["maximum"] = getattr(limits, extra["le"])
        if "default" in extra:
            properties[field.encode_name]["default"] = getattr(limits, extra["default"])
    return properties, frozenset(whole.get("required", ()))


def _without_null(schema: JsonObject) -> JsonObject:
    """The schema of a parameter that is given: one that is left out is null in the Struct."""
    found: dict[str, Any] = dict(schema)
    (kept,) = [each for each in found.pop("anyOf", [{}]) if each != {"type": "null"}]
    found = {**kept, **found}
    if found.get("default", 0) is None:
        del found["default"]
    return found
