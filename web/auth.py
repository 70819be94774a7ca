"""Who may use the API: this machine only, unless the settings say otherwise."""

import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web

from web.context import CONTEXT
from web.errors import MalformedHeaderError, NotLocalError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The paths that are open to everybody: those that a load balancer uses.
OPEN_PATHS = web.AppKey("open_paths", frozenset[str])

# What proxies add.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


@web.middleware
async def local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let only requests from this machine through, unless the settings open the API: it shows states and events."""
    app = request.app
    if app[CONTEXT].api_for_all or request.path in app[OPEN_PATHS] or is_from_here(request):
        return await handler(request)
    raise NotLocalError(path=request.path)


def is_from_here(request: web.Request) -> bool:
    """Say whether a request was made on this machine, neither through a proxy nor by a page of another site.

    A proxy shows by its headers, a page by its Origin, a page that rebinds its name by the Host. A proxy that adds none
    of these headers cannot be recognised: docs/operations.md says to forward /webhooks/ only. Raises
    MalformedHeaderError.
    """
    headers = request.headers
    return (
        is_loopback(request.remote)
        and is_loopback(host_of(request))
        and not any(name in headers for name in FORWARDED)
        and headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}
        and headers.get("Origin") is None
    )


def host_of(request: web.BaseRequest) -> str | None:
    """The host that a request asks for. Raises MalformedHeaderError."""
    try:
        return request.url.host
    except ValueError:
        raise MalformedHeaderError(header="Host") from None


def is_loopback(host: str | None) -> bool:
    """Say whether an address is one that only this machine itself can reach."""
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
