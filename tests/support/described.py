"""What a server of the suite answers, compared with the document of its API."""

import gzip
import json
import re
from functools import cache
from typing import Any

import jsonschema_rs

from eventstore.limits import Limits
from projections import load_projections
from web.app import make_routes
from web.openapi.document import make_document

PROBLEM = "application/problem+json"

# How a body begins that a test has asked for compressed.
GZIP = b"\x1f\x8b"


@cache
def document() -> dict[str, Any]:
    """The document, in which no answer may have more than is described; a problem may: its facts."""
    found = make_document(make_routes(load_projections().values()), Limits())
    for name, schema in found["components"]["schemas"].items():
        if name != "Problem" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return found


@cache
def _paths() -> list[tuple[re.Pattern[str], str]]:
    """Every path as a pattern, those without parameters first."""
    paths = sorted(document()["paths"], key=lambda path: path.count("{"))
    return [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), path) for path in paths]


@cache
def _validator(path: str, method: str, status: str, media: str) -> Any:  # noqa: ANN401 - two kinds of validators
    responses = document()["paths"][path][method]["responses"]
    response = responses.get(status) or responses["default"]
    if (reference := response.get("$ref")) is not None:
        response = document()["components"]["responses"][reference.rpartition("/")[2]]
    assert media in response["content"], f"{method} {path}: {status} {media} is not described"
    schema = {**response["content"][media]["schema"], "components": document()["components"]}
    return jsonschema_rs.validator_for(schema)


def check(method: str, target: str, status: int, content_type: str, body: bytes) -> None:
    """See that an answer in JSON is as the document says; those of projections that tests add are not in it."""
    media = content_type.partition(";")[0]
    if media not in {"application/json", PROBLEM} or not body:
        return
    target = target.partition("?")[0]
    path = next((path for pattern, path in _paths() if pattern.fullmatch(target)), None)
    if path is None or method.lower() not in document()["paths"][path]:
        return
    if body.startswith(GZIP):
        body = gzip.decompress(body)
    validator = _validator(path, method.lower(), str(status), media)
    errors = [error.message for error in validator.iter_errors(json.loads(body))]
    assert not errors, f"{method} {target}: {status} {errors} {body[:500]!r}"
