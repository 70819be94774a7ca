"""JSON Schemas of Structs: msgspec's, with what their docstrings say of each field, and examples."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, get_origin

import msgspec
from msgspec import inspect

from web.openapi.examples import example_of

JsonObject: TypeAlias = dict[str, Any]

REFERENCE = "#/components/schemas/"

# Where one sentence ends and the next begins.
SENTENCES = re.compile(r"(?<=[.:;])\s+(?=[A-Z`])")


class Schemas:
    """The schemas of all these types, and of the Structs that they are made of."""

    def __init__(self, types: Iterable[Any]) -> None:
        types = list(types)
        schemas, components = msgspec.json.schema_components(types, ref_template="{name}")
        names = {name: _plain_name(each.get("title", name)) for name, each in components.items()}
        structs = {
            _title(each): each
            for info in inspect.multi_type_info(types)
            for each in structs_in(info)
        }
        self.components = {
            names[name]: _described(_rewrite(each, names), structs.get(each.get("title", "")))
            for name, each in sorted(components.items())
        }
        self._found = [
            (type_, _rewrite(schema, names)) for type_, schema in zip(types, schemas, strict=True)
        ]

    def of(self, type_: object) -> JsonObject:
        """The schema of one of the types."""
        return next(schema for each, schema in self._found if each is type_ or each == type_)

    def example(self, schema: JsonObject, name: str = "") -> Any:  # noqa: ANN401 - JSON
        """A value that fits a schema, as a field of this name could have it."""
        return example_of(schema, self.components, name)

    def resolve(self, schema: JsonObject) -> JsonObject:
        """The component that a schema refers to, or itself."""
        reference = schema.get("$ref", "")
        found: JsonObject = self.components[reference.rpartition("/")[2]] if reference else schema
        return found

    def partial(self, name: str) -> JsonObject:
        """The schema of a component of which a request may ask for some fields only."""
        whole = self.components[name]
        said = f"A {name}; of its fields those that `fields` asks for, all without it."
        return self._add(f"Partial{name}", {**_optional(whole), "description": said})

    def partial_page(self, name: str, item: str) -> JsonObject:
        """The schema of a page of such."""
        whole = self.components[name]
        items = {**whole["properties"]["items"], "items": self.partial(item)}
        properties = {**whole["properties"], "items": items}
        return self._add(f"Partial{name}", {**whole, "properties": properties})

    def _add(self, name: str, schema: JsonObject) -> JsonObject:
        self.components[name] = schema
        return {"$ref": f"{REFERENCE}{name}"}


def _optional(schema: JsonObject) -> JsonObject:
    return {key: value for key, value in schema.items() if key != "required"}


def _plain_name(title: str) -> str:
    """Make `Page[Row, str]` a `RowPage`."""
    generic, _, arguments = title.rstrip("]").partition("[")
    return f"{arguments.split(',')[0]}{generic}"


def _rewrite(schema: Any, names: dict[str, str]) -> Any:  # noqa: ANN401 - JSON
    """Refer to the components by their new names, and write "this or null" in the short way."""
    if isinstance(schema, list):
        return [_rewrite(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _rewrite(value, names) for key, value in schema.items() if key != "title"}
    if isinstance(reference := found.get("$ref"), str):
        found["$ref"] = REFERENCE + names[reference]
    pair = found.get("prefixItems", [])
    if pair and found.get("items") is False and all(each == pair[0] for each in pair):
        # Not every tool knows arrays that have a schema for each place.
        found["items"] = found.pop("prefixItems")[0]
    options = found.get("anyOf", [])
    if len(options) == 2 and options[1] == {"type": "null"} and "type" in options[0]:  # noqa: PLR2004 - one, or null
        del found["anyOf"]
        found = {**options[0], **found, "type": [options[0]["type"], "null"]}
    if "enum" in found and isinstance(found.get("type"), list):
        found["enum"] = [*found["enum"], None]
    return found


def _described(schema: JsonObject, struct: inspect.StructType | None) -> JsonObject:
    """Say of each field what the docstrings of its Struct say, in the first sentence that names it."""
    properties = schema.get("properties", {})
    if struct is None or not properties:
        return schema
    add_time_formats(properties, struct)
    cls = get_origin(struct.cls) or struct.cls
    texts = (
        " ".join((each.__doc__ or "").split())
        for each in cls.__mro__
        if each.__module__ != "builtins"
    )
    sentences = [each.rstrip(";:") for text in texts for each in SENTENCES.split(text)]
    for name, each in properties.items():
        said = next((sentence for sentence in sentences if f"`{name}`" in sentence), None)
        if said is not None:
            each.setdefault("description", said if said.endswith(".") else f"{said}.")
    return schema


def add_time_formats(properties: Mapping[str, JsonObject], struct: inspect.Type) -> None:
    """Say which texts are times: msgspec says so only of those that must have an offset."""
    for field in getattr(struct, "fields", ()):
        types = [field.type]
        for each in types:
            types += (
                [each.type] if isinstance(each, inspect.Metadata) else getattr(each, "types", ())
            )
        if any(isinstance(each, inspect.DateTimeType) for each in types):
            properties[field.encode_name].setdefault("format", "date-time")


def _title(struct: inspect.StructType) -> str:
    schema = msgspec.json.schema(struct.cls)
    name = schema.get("$ref", "").rpartition("/")[2]
    return str(schema["$defs"][name]["title"]) if name else str(schema.get("title", ""))


def structs_in(type_: inspect.Type) -> Iterator[inspect.StructType]:
    """Every Struct that a type is made of."""
    if isinstance(type_, inspect.StructType):
        yield type_
        for field in type_.fields:
            yield from structs_in(field.type)
    for name in ("type", "item_type", "value_type"):
        if (inner := getattr(type_, name, None)) is not None:
            yield from structs_in(inner)
    for name in ("types", "item_types"):
        for inner in getattr(type_, name, ()):
            yield from structs_in(inner)
