"""This API as a document of OpenAPI 3.1, and as a page (Swagger UI) that is served from here alone.

Neither needs a key: they say what can be asked, and nothing of what is on record.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from web.access import Access
from web.context import Context
from web.errors import BadParameterError
from web.formats import EncodedJson, StaticFile
from web.openapi.document import make_document
from web.parameters import NoParameters
from web.route import Answer, Route

# How long a browser may use a file of the page without asking again, in seconds.
MAX_AGE = 3600

# Swagger UI needs pictures in `data:` addresses, and no style of its elements' own: React sets those through the DOM.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

OWN = Path(__file__).parent.parent / "static"

SWAGGER_UI = files("mkdocs_swagger_ui_tag") / "swagger-ui"

FILES = {
    "swagger-ui.css": ("text/css", SWAGGER_UI / "stylesheets" / "swagger-ui.css"),
    "swagger-ui-bundle.js": (
        "text/javascript",
        SWAGGER_UI / "javascripts" / "swagger-ui-bundle.js",
    ),
    "page.css": ("text/css", OWN / "page.css"),
    "docs.js": ("text/javascript", OWN / "docs.js"),
}


class Document(msgspec.Struct, frozen=True):
    """A document of OpenAPI: the version of that is `openapi`.

    `info` says what is described, `tags` what the groups are about, `paths` what can be asked,
    and `components` are what all of these refer to.
    """

    openapi: str
    info: dict[str, Any]
    tags: list[dict[str, Any]]
    paths: dict[str, Any]
    components: dict[str, Any]


EXAMPLE = {
    "openapi": "3.1.0",
    "info": {"title": "Loopledger", "version": "1"},
    "tags": [],
    "paths": {},
    "components": {},
}


def routes_to(routes: Sequence[Route]) -> list[Route]:
    """The routes of the documentation of all these routes, and of themselves."""
    described: list[Route] = []
    made: list[bytes] = []

    async def show_document(
        context: Context, _access: Access, _path: NoParameters, _query: NoParameters
    ) -> EncodedJson:
        """This document."""
        if not made:
            made.append(msgspec.json.encode(make_document(described, context.limits)) + b"\n")
        return EncodedJson(made[0])

    document = Route(
        method="GET",
        path="/openapi.json",
        handler=show_document,
        answer=Document,
        example=EXAMPLE,
        errors=(BadParameterError,),
        scope="health",
    )
    described += [*routes, document, PAGE]
    return [document, PAGE, *(_file(name) for name in FILES)]


async def show_page(
    _: Context, _access: Access, _path: NoParameters, _query: NoParameters
) -> Answer:
    """This document as a page."""
    return Answer(StaticFile("text/html", (OWN / "docs.html").read_bytes()), headers=HEADERS)


PAGE = Route(
    method="GET",
    path="/docs",
    handler=show_page,
    answer=bytes,
    media_types=("text/html",),
    errors=(BadParameterError,),
    scope="health",
)


def _file(name: str) -> Route:
    content_type, path = FILES[name]
    read: list[bytes] = []

    async def show_file(
        _: Context, _access: Access, _path: NoParameters, _query: NoParameters
    ) -> Answer:
        """A file of the page."""
        if not read:
            read.append(path.read_bytes())
        headers = {**HEADERS, "Cache-Control": f"public, max-age={MAX_AGE}"}
        return Answer(StaticFile(content_type, read[0]), headers=headers)

    return Route(
        method="GET",
        path=f"/docs/{name}",
        handler=show_file,
        answer=bytes,
        media_types=(content_type,),
        errors=(BadParameterError,),
        scope="health",
        documented=False,
    )
