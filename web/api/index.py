"""What this is, for whoever opens the address alone: JSON for programs, a page for browsers."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from web.access import Access
from web.api.documentation import HEADERS
from web.api.health import SERVER_NAME
from web.context import Context
from web.errors import BadParameterError
from web.parameters import NoParameters
from web.route import Answer, Route

ABOUT = (
    "A state store for the webhooks of closed-loop programmes: gift cards, transactions, locations."
)

PAGE = Path(__file__).parent.parent / "static" / "index.html"


class Index(msgspec.Struct, frozen=True):
    """What answers: `server`, what it is `about`, its `paths`, and where they are described.

    `paths` are a method and a path each; `documentation` is the path of a page that describes them, `openapi` that of
    the same as OpenAPI 3.1.
    """

    server: str
    about: str
    paths: list[str]
    documentation: str
    openapi: str


class IndexForm(msgspec.Struct, frozen=True):
    """The index as a browser or a program asks for it."""

    page: bytes
    json: bytes

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The page for whoever names HTML among what it takes, as every browser does."""
        if "text/html" in accept.lower():
            return self.page, "text/html; charset=utf-8"
        return self.json, "application/json"


def route_to(routes: Iterable[Route]) -> Route:
    """The route of the index of all these routes."""
    index = Index(
        SERVER_NAME,
        ABOUT,
        [f"{route.method} {route.path}" for route in routes if route.documented],
        "/docs",
        "/openapi.json",
    )
    form = IndexForm(PAGE.read_bytes(), msgspec.json.encode(index) + b"\n")

    async def show_index(
        _: Context, _access: Access, _path: NoParameters, _query: NoParameters
    ) -> Answer:
        """What this is, and what can be asked: JSON, or a page for whoever asks for HTML."""
        return Answer(form, headers={**HEADERS, "Vary": "Accept"})

    return Route(
        method="GET",
        path="/",
        handler=show_index,
        answer=Index,
        media_types=("application/json", "text/html"),
        errors=(BadParameterError,),
        scope="health",
    )
