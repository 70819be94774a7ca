"""The responses of a route: its answer in each of its media types, and the problems that can take its place."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from eventstore.errors import LoopledgerError
from web.formats import Negotiated
from web.openapi.examples import problem_example
from web.openapi.schemas import JsonObject, Schemas
from web.problems import PROBLEM_TYPES, ProblemType
from web.route import Route

PROBLEM_MEDIA = "application/problem+json"

PROBLEM: JsonObject = {
    "type": "object",
    "description": "What went wrong (RFC 9457). Facts of the error are members of their own, such as `parameter`.",
    "properties": {
        "type": {
            "type": "string",
            "description": "`urn:loopledger:problem:` and the name of the error.",
        },
        "title": {"type": "string", "description": "What all errors of this type have in common."},
        "status": {
            "type": "integer",
            "minimum": 400,
            "maximum": 599,
            "description": "The status of the response.",
        },
        "detail": {
            "type": "string",
            "description": "What was wrong with this request, and what to do.",
        },
        "request_id": {
            "type": "string",
            "description": "What the log calls this request.",
        },
    },
    "required": ["type", "title", "status", "detail", "request_id"],
}

HEADERS: Mapping[str, JsonObject] = {
    "Retry-After": {
        "description": "In how many seconds the same request may succeed.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
        "example": 1,
    },
    "WWW-Authenticate": {
        "description": "How to authenticate (RFC 9110, RFC 6750).",
        "required": True,
        "schema": {"type": "string"},
        "example": 'Bearer realm="loopledger"',
    },
    "Allow": {
        "description": "The methods that the path takes.",
        "required": True,
        "schema": {"type": "string"},
        "example": "GET, HEAD",
    },
}


def responses_of(route: Route, schemas: Schemas) -> JsonObject:
    """Every response that a route can have, by status."""
    answer = {"content": _content(route, schemas)}
    found: JsonObject = {
        str(int(status)): {"description": _description(route, status), **answer}
        for status in route.statuses
    }
    for status, types in _by_status(route.errors).items():
        # A route may answer with a status that is an error elsewhere.
        usual = found.get(str(status), {"content": {}})
        found[str(status)] = {
            "description": "; or: ".join(
                [
                    *([usual["description"]] if "description" in usual else []),
                    *(f"{each.title} (`{each.slug}`)" for each in types),
                ]
            ),
            "headers": _headers(status, types, mixed="description" in usual),
            "content": {**usual["content"], PROBLEM_MEDIA: _problems(types)},
        }
        if not found[str(status)]["headers"]:
            del found[str(status)]["headers"]
    found["405"] = {"$ref": "#/components/responses/MethodNotAllowed"}
    found["default"] = {"$ref": "#/components/responses/Problem"}
    return found


def shared_components(routes: Iterable[Route]) -> JsonObject:
    """What responses refer to: an example of each problem, the headers, and problems that any request can have."""
    types = {error for route in routes for error in route.errors}
    examples = {
        PROBLEM_TYPES[error].slug: {
            "summary": PROBLEM_TYPES[error].title,
            "value": _problem_value(error, PROBLEM_TYPES[error]),
        }
        for error in reversed(list(PROBLEM_TYPES))
        if error in types
    }
    wrong_method = ProblemType(405, "http-405", "Method Not Allowed")
    return {
        "examples": examples,
        "headers": HEADERS,
        "responses": {
            "MethodNotAllowed": {
                "description": "The path does not take this method",
                "headers": {"Allow": {"$ref": "#/components/headers/Allow"}},
                "content": {
                    PROBLEM_MEDIA: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "example": _members(
                            wrong_method,
                            {"detail": "/v1/events does not take PUT; it takes GET, HEAD."},
                        ),
                    }
                },
            },
            "Problem": {
                "description": "Any other problem, such as one of the connection or our own fault",
                "content": {
                    PROBLEM_MEDIA: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "example": _members(
                            ProblemType(500, "internal", "Internal error"),
                            {
                                "detail": "Something went wrong here; the log says what, beside this request_id."
                            },
                        ),
                    }
                },
            },
        },
    }


def media_types_of(route: Route) -> tuple[str, ...]:
    """The media types of the answer of a route, the usual one first."""
    if route.media_types:
        return route.media_types
    if route.live:
        return ("text/event-stream",)
    return ("application/octet-stream",) if route.answer is bytes else ("application/json",)


def _content(route: Route, schemas: Schemas) -> JsonObject:
    return {media: _media(route, media, schemas) for media in media_types_of(route)}


def _media(route: Route, media: str, schemas: Schemas) -> JsonObject:
    if route.answer in {bytes, Negotiated} or media == "text/html":
        return {"schema": {"type": "string"} if media.startswith("text/") else {}}
    schema = schemas.of(route.answer)
    if "fields" in route.query.__struct_encode_fields__:
        schema = _partial(schema, schemas)
    if media == "application/json":
        example = route.example if route.example is not None else schemas.example(schema)
        return {"schema": schema, "example": example}
    item = _item_of(schema, schemas)
    row = schemas.example(item)
    return {"schema": {"type": "string"}, "x-item": item, "example": _written(media, row)}


def _partial(schema: JsonObject, schemas: Schemas) -> JsonObject:
    """The schema of an answer of which a request may ask for some fields only."""
    name = schema["$ref"].rpartition("/")[2]
    item = _item_of(schema, schemas)["$ref"].rpartition("/")[2]
    return schemas.partial(item) if item == name else schemas.partial_page(name, item)


def _item_of(schema: JsonObject, schemas: Schemas) -> JsonObject:
    """The schema of one item of a page, or of what is no page."""
    properties = schemas.resolve(schema).get("properties", {})
    found: JsonObject = (
        properties["items"]["items"] if {"items", "next"} == set(properties) else schema
    )
    return found


def _written(media: str, row: Mapping[str, Any]) -> str:
    """An item as it is written in other media types than JSON."""
    text = msgspec.json.encode(row).decode()
    match media:
        case "text/csv":
            values = ("" if each is None else str(each) for each in row.values())
            return f"{','.join(row)}\r\n{','.join(values)}\r\n"
        case "text/event-stream":
            return f"id: {row.get('position', 1)}\nevent: event\ndata: {text}\n\n"
        case _:
            return f"{text}\n"


def _description(route: Route, status: HTTPStatus) -> str:
    return {
        HTTPStatus.ACCEPTED: "It is not done yet, and will be",
        HTTPStatus.SERVICE_UNAVAILABLE: "It is not",
    }.get(status, "Done" if route.method == "POST" else "Found")


def _by_status(
    errors: Iterable[type[LoopledgerError]],
) -> dict[int, list[ProblemType]]:
    found: dict[int, list[ProblemType]] = {}
    for error in errors:
        problem_type = PROBLEM_TYPES[error]
        of_status = found.setdefault(problem_type.status, [])
        if problem_type.slug not in {each.slug for each in of_status}:
            of_status.append(problem_type)
    return dict(sorted(found.items()))


def _headers(status: int, types: Iterable[ProblemType], *, mixed: bool) -> JsonObject:
    names = []
    if not mixed and all(each.retry_after is not None for each in types):
        names.append("Retry-After")
    if status == HTTPStatus.UNAUTHORIZED:
        names.append("WWW-Authenticate")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problems(types: Iterable[ProblemType]) -> JsonObject:
    return {
        "schema": {"$ref": "#/components/schemas/Problem"},
        "examples": {each.slug: {"$ref": f"#/components/examples/{each.slug}"} for each in types},
    }


def _problem_value(error: type[LoopledgerError], problem_type: ProblemType) -> JsonObject:
    return _members(problem_type, problem_example(error))


def _members(problem_type: ProblemType, members: Mapping[str, object]) -> JsonObject:
    return {
        **members,
        "type": f"urn:loopledger:problem:{problem_type.slug}",
        "title": problem_type.title,
        "status": problem_type.status,
        "request_id": "8a6f0c2d41b7e953",
    }
