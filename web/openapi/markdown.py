"""The document of the API as a page to read: docs/api.md."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from web.openapi.schemas import JsonObject

NOTE = "<!-- Made by `make docs` from the routes; the prose is in web/openapi/. -->"

# A page of docs/ that prose names becomes a link.
PAGE = re.compile(r"`docs/([\w/-]+\.md)(#[\w-]+)?`")

PROBLEM_MEDIA = "application/problem+json"


def page_of(document: JsonObject) -> str:
    """Write the whole page."""
    groups = [_group(document, tag) for tag in document["tags"]]
    parts = [
        "# API",
        NOTE,
        document["info"]["description"],
        *groups,
        _types(document),
        _errors(document),
    ]
    return (
        PAGE.sub(lambda found: f"[{found[1]}]({found[1]}{found[2] or ''})", "\n\n".join(parts))
        + "\n"
    )


def _group(document: JsonObject, tag: Mapping[str, str]) -> str:
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    ]
    rows = [
        f"| `{name}` | {_scope(operation)} | {_cell(operation['summary'])} |"
        for name, operation in operations
    ]
    table = ["| request | scope | what it does |", "| --- | --- | --- |", *rows]
    details = [_operation(name, operation) for name, operation in operations]
    return "\n\n".join([f"## {tag['name']}", "\n".join(table), tag["description"], *details])


def _scope(operation: JsonObject) -> str:
    return (
        ", ".join(f"`{scope}`" for each in operation["security"] for scope in each["key"]) or "none"
    )


def _operation(name: str, operation: JsonObject) -> str:
    parts = [f"### {name}", f"{operation['summary']}."]
    if "description" in operation:
        parts.append(operation["description"])
    if parameters := operation.get("parameters"):
        rows = [
            f"| `{each['name']}` | {_place(each)} | {_schema(each['schema'])} | {_cell(each.get('description', ''))} |"
            for each in parameters
        ]
        parts.append(
            "\n".join(["| parameter | in | value | |", "| --- | --- | --- | --- |", *rows])
        )
    if (body := operation.get("requestBody")) is not None:
        content = body["content"]["application/json"]
        parts.append(f"Body: {_schema(content['schema'])}, such as")
        parts.append(_json(next(iter(content["examples"].values()))["value"]))
    parts.append("\n".join(f"- {each}" for each in _responses(operation["responses"])))
    return "\n\n".join(parts)


def _place(parameter: JsonObject) -> str:
    place: str = parameter["in"]
    return f"{place}, required" if parameter["required"] and place != "path" else place


def _responses(responses: JsonObject) -> Iterator[str]:
    """A line for each answer, and one for all problems."""
    problems: list[str] = []
    for status, response in responses.items():
        for media, content in response.get("content", {}).items():
            if media == PROBLEM_MEDIA:
                names = ", ".join(f"`{slug}`" for slug in content["examples"])
                problems.append(f"{status} {names}")
                continue
            schema = content.get("x-item") or content["schema"]
            told = f": {_schema(schema)}" if "$ref" in schema else ""
            yield f"{status} `{media}`{', one after the other' if 'x-item' in content else ''}{told}"
    if problems:
        yield f"[Problems](#errors): {'; '.join(problems)}"


def _types(document: JsonObject) -> str:
    """What answers and bodies are made of."""
    parts = ["## Types"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        if name.startswith("Partial") or name.endswith("Page"):
            continue
        rows = [
            f"| `{field}` | {_schema(each)} | {_cell(each.get('description', ''))} |"
            for field, each in schema.get("properties", {}).items()
        ]
        parts += [f"### {name}", schema.get("description", "").split("\n\n")[0]]
        if rows:
            parts.append("\n".join(["| field | value | |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(part for part in parts if part)


def _errors(document: JsonObject) -> str:
    """Every problem, with an example of its detail."""
    examples = document["components"]["examples"]
    rows = [
        f"| {each['value']['status']} | `{slug}` | {_cell(each['value']['detail'])} |"
        for slug, each in sorted(
            examples.items(), key=lambda item: (item[1]["value"]["status"], item[0])
        )
    ]
    said = (
        "An example of each. `type` is `urn:loopledger:problem:<name>`. Besides these, `http-404` says that there is "
        "no such path, `http-405` that it does not take the method (`Allow` says which it does), and 500 `internal` "
        "that it is our own fault: the log says what."
    )
    return "\n\n".join(
        [
            "## Errors",
            said,
            "\n".join(["| status | name | detail, for example |", "| --- | --- | --- |", *rows]),
        ]
    )


def _schema(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if (reference := schema.get("$ref")) is not None:
        name = reference.rpartition("/")[2]
        item = name.removeprefix("Partial").removesuffix("Page")
        link = f"[{item}](#{item.lower()})"
        return f"page of {link}" if name.endswith("Page") else link
    if "enum" in schema:
        said = ", ".join(f"`{each}`" for each in schema["enum"] if each is not None)
    elif options := schema.get("anyOf"):
        return " or ".join(_schema(each) for each in options)
    else:
        types = schema.get("type", "any")
        said = " or ".join(types) if isinstance(types, list) else types
        said = schema.get("format", said) if "string" in said else said
        if said == "array" and schema.get("items"):
            said = f"list of {_schema(schema['items'])}"
        bounds = [str(schema[each]) for each in ("minimum", "maximum") if each in schema]
        if len(bounds) == 2 and len(bounds[1]) < 10:  # noqa: PLR2004 - both; the largest bigint tells nobody anything
            said += f", {bounds[0]} to {bounds[1]}"
    default = schema.get("default")
    return (
        f"{said} (`{msgspec.json.encode(default).decode().strip(chr(34))}`)"
        if default is not None
        else said
    )


def _json(value: object) -> str:
    return f"```json\n{msgspec.json.format(msgspec.json.encode(value), indent=2).decode()}\n```"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
