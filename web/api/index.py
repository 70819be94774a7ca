"""What this is, for whoever opens the address alone."""

import importlib.metadata
from collections.abc import Iterable

import msgspec

from web.access import Access
from web.api.health import SERVER_NAME
from web.context import Context
from web.parameters import NoParameters
from web.route import Route

VERSION = importlib.metadata.version("loopledger")

ABOUT = (
    "A state store for the webhooks of closed-loop programmes: gift cards, transactions, locations."
)


class Index(msgspec.Struct, frozen=True):
    """What answers (`server`, `version`), what it is `about`, its `paths`, and where they are documented.

    `paths` are a method and a path each; `documentation` names the page of its source that describes them.
    """

    server: str
    version: str
    about: str
    paths: list[str]
    documentation: str


def route_to(routes: Iterable[Route]) -> Route:
    """The route of the index of all these routes."""
    index = Index(
        SERVER_NAME,
        VERSION,
        ABOUT,
        [f"{route.method} {route.path}" for route in routes],
        "docs/api.md",
    )

    async def show_index(
        _: Context, _access: Access, _path: NoParameters, _query: NoParameters
    ) -> Index:
        """What this is, and what can be asked."""
        return index

    return Route(method="GET", path="/", handler=show_index, answer=Index, scope="read")
