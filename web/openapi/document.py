"""The document of OpenAPI 3.1 that describes the API: made from the table of routes and its Structs alone."""

import inspect as python
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eventstore.limits import Limits
from web.formats import Negotiated
from web.openapi.parameters import parameters_of
from web.openapi.responses import PROBLEM, responses_of, shared_components
from web.openapi.schemas import JsonObject, Schemas
from web.route import Route

INTRODUCTION = Path(__file__).with_name("introduction.md")
GROUPS = Path(__file__).with_name("groups")

# The version of what the paths begin with; that of the server is not for everybody.
API_VERSION = "1"

SECURITY_SCHEME: JsonObject = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key, `llk_...`, that `loopledger keys create` made. A requirement names the scope that the key "
    "needs. Until the first key is made, `read` needs none on the machine of the server itself.",
}

# Scopes that need no key: for everybody, or a provider's deliveries, which are verified in other ways.
WITHOUT_KEY = frozenset({"health", "deliver"})


def make_document(routes: Sequence[Route], limits: Limits) -> JsonObject:
    """Describe these routes, with the limits that are in force."""
    routes = [route for route in routes if route.documented]
    schemas = Schemas(_types_of(routes))
    names = operation_ids(routes)
    paths: JsonObject = {}
    for route in routes:
        operation = _operation(route, names[route.method, route.path], schemas, limits)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Loopledger",
            "version": API_VERSION,
            "summary": "An event-sourced state store for the webhooks of closed-loop programmes.",
            "description": INTRODUCTION.read_text("utf-8").strip(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": _tags(routes),
        "paths": paths,
        "components": {
            "schemas": {**schemas.components, "Problem": PROBLEM},
            **shared_components(routes),
            "securitySchemes": {"key": SECURITY_SCHEME},
        },
    }


def tag_of(route: Route) -> str:
    """The group of a route: the module that has its handler, or the type of its answer where web.ingest serves it."""
    return _module_of(route).rpartition(".")[2].replace("_", " ").capitalize()


def operation_ids(routes: Iterable[Route]) -> Mapping[tuple[str, str], str]:
    """The id of the operation of each method and path: the name of the handler and, if several have it, whose it is."""
    routes = list(routes)
    counts = Counter(_name_of(route) for route in routes)
    return {
        (route.method, route.path): name
        if counts[name := _name_of(route)] == 1
        else f"{name}_of_{route.path.split('/')[2].replace('-', '_')}"
        for route in routes
    }


def _name_of(route: Route) -> str:
    return route.name or str(getattr(route.handler, "__name__", ""))


def _module_of(route: Route) -> str:
    return str(getattr(route.handler or route.answer, "__module__", ""))


def _types_of(routes: Iterable[Route]) -> list[Any]:
    """The type of every body, in the order of the table."""
    bodies = [each for route in routes for each in (route.answer, route.body) if each is not None]
    return list(dict.fromkeys(each for each in bodies if each not in {bytes, Negotiated}))


def _tags(routes: Iterable[Route]) -> list[JsonObject]:
    """The groups, each with the prose about it or, where there is none, what the docstring of its module says."""
    modules = {tag_of(route): _module_of(route) for route in routes}
    return [{"name": name, "description": _prose(module)} for name, module in modules.items()]


def _prose(module: str) -> str:
    page = GROUPS / f"{module.rpartition('.')[2]}.md"
    if page.is_file():
        return page.read_text("utf-8").strip()
    return python.cleandoc(sys.modules[module].__doc__ or "")


def _operation(route: Route, name: str, schemas: Schemas, limits: Limits) -> JsonObject:
    described = python.cleandoc(route.description or getattr(route.handler, "__doc__", None) or "")
    summary, _, description = described.partition("\n\n")
    operation: JsonObject = {
        "operationId": name,
        "tags": [tag_of(route)],
        "summary": " ".join(summary.split()).removesuffix("."),
    }
    if description:
        operation["description"] = description
    if parameters := parameters_of(route, limits):
        operation["parameters"] = parameters
    if (body := _request_body(route, schemas)) is not None:
        operation["requestBody"] = body
    operation["responses"] = responses_of(route, schemas)
    operation["security"] = [] if route.scope in WITHOUT_KEY else [{"key": [route.scope]}]
    return operation


def _request_body(route: Route, schemas: Schemas) -> JsonObject | None:
    if route.body is None:
        return None
    schema = schemas.of(route.body)
    examples = route.request_examples or {"example": schemas.example(schema)}
    content = {
        "schema": schema,
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"required": True, "content": {"application/json": content}}
