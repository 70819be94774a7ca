"""What the API says of itself: a document of OpenAPI, a page, and where both are."""

import re
from string import Formatter
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from eventstore.limits import Limits
from projections import load_projections
from tests.support import ROOT, Client
from web.app import make_routes
from web.openapi.document import make_document
from web.openapi.examples import FACTS, FACTS_OF
from web.openapi.markdown import page_of
from web.problems import PROBLEM_TYPES
from web.route import Route

ROUTES = [route for route in make_routes(load_projections().values()) if route.documented]
DOCUMENT = make_document(ROUTES, Limits())
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def name_of(value: object) -> str:
    return value.path if isinstance(value, Route) else ""


def validator(schema: Any) -> jsonschema_rs.Validator:  # noqa: ANN401 - JSON
    """Validates by a schema of the document."""
    return jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})


def test_the_document_is_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_the_document_has_every_route_with_its_scope_and_its_errors() -> None:
    assert {(method, path) for method, path, _ in OPERATIONS} == {
        (route.method.lower(), route.path) for route in ROUTES
    }
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        expected = [] if route.scope in {"deliver", "health"} else [{"key": [route.scope]}]
        assert operation["security"] == expected
        assert operation["summary"], route.path
        assert len(operation["tags"]) == 1


def test_no_two_operations_have_one_id() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    assert [each for each in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)*", each)] == []


def test_every_group_is_described() -> None:
    tags = {each["name"]: each["description"] for each in DOCUMENT["tags"]}
    assert {tag for _, _, operation in OPERATIONS for tag in operation["tags"]} == set(tags)
    assert all(tags.values())


def test_every_field_of_every_answer_is_described() -> None:
    missing = [
        f"{name}.{field}"
        for name, schema in DOCUMENT["components"]["schemas"].items()
        if not name.endswith("Page")
        for field, each in schema.get("properties", {}).items()
        if not each.get("description")
    ]
    assert missing == []


def test_bounds_and_defaults_are_those_that_are_in_force() -> None:
    document = make_document(ROUTES, Limits(page_items=7, page_items_max=70))
    parameters = document["paths"]["/v1/events"]["get"]["parameters"]
    limit = next(each for each in parameters if each["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 70, "default": 7}


def examples_in(node: Any) -> Any:  # noqa: ANN401 - JSON
    """Every example of a part of the document, with its schema."""
    if isinstance(node, list):
        for each in node:
            yield from examples_in(each)
    if not isinstance(node, dict):
        return
    if "schema" in node:
        examples = [node["example"]] if "example" in node else []
        for each in node.get("examples", {}).values():
            found = each
            if "$ref" in each:
                found = DOCUMENT["components"]["examples"][each["$ref"].rpartition("/")[2]]
            examples.append(found["value"])
        for example in examples:
            yield example, node["schema"]
    for name, each in node.items():
        if name not in {"example", "examples", "schema"}:
            yield from examples_in(each)


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_example_fits_its_schema(path: str) -> None:
    found = list(examples_in(DOCUMENT["paths"][path]))
    assert found
    for example, schema in found:
        errors = [each.message for each in validator(schema).iter_errors(example)]
        assert errors == [], example


def test_the_page_of_the_docs_is_made_from_the_document() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert page == page_of(DOCUMENT), "run `make docs`"


def test_every_fact_of_an_error_has_an_example() -> None:
    for error in PROBLEM_TYPES:
        names = {name for _, name, _, _ in Formatter().parse(error.message) if name}
        assert names <= {*FACTS, *FACTS_OF.get(error.__name__, {})}, (
            error,
            "web/openapi/examples.py",
        )


async def test_the_server_answers_with_its_document_and_needs_no_key(client: Client) -> None:
    answer = await client.get("/openapi.json")
    assert answer.status == 200
    assert answer.json == DOCUMENT


async def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script_of_its_own(
    client: Client,
) -> None:
    page = await client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    text = page.body.decode()
    assert re.findall(r"<script>|<style|style=|\son\w+=|://", text) == []
    for path in re.findall(r'(?:src|href)="([^"#:]+)"', text):
        linked = await client.get(f"/{path}")
        assert linked.status == 200, path
        assert linked.headers.get("X-Content-Type-Options") == "nosniff" or path == "openapi.json"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
async def test_the_bare_address_is_json_for_programs_and_a_page_for_browsers(
    client: Client, accept: str, content_type: str
) -> None:
    answer = await client.request("GET", "/", headers={"Accept": accept})
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    for path in ("docs", "openapi.json"):
        assert f'"/{path}"' in answer.body.decode() or f'href="{path}"' in answer.body.decode()


async def test_options_are_answered_with_the_methods_of_the_document(client: Client) -> None:
    for path, operations in DOCUMENT["paths"].items():
        # What a thing with the id "search" would take is taken there, too.
        if path.endswith("/search"):
            continue
        answer = await client.request("OPTIONS", re.sub(r"{\w+}", "1", path))
        allowed = {*(method.upper() for method in operations), "OPTIONS"}
        assert set(answer.headers["Allow"].split(", ")) - {"HEAD"} == allowed, path
