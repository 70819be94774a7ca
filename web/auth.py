"""Who may use the API: this machine only, unless the settings say otherwise."""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from aiohttp import web
from multidict import istr

from web.access import WITHOUT_KEY, Access
from web.context import CONTEXT
from web.errors import MalformedHeaderError, NotLocalError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The paths that are open to everybody: those that a load balancer uses.
OPEN_PATHS = web.AppKey("open_paths", frozenset[str])

# Who makes a request, once that is checked.
ACCESS = web.RequestKey("access", Access)

# What proxies add.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")

# What browsers add, and what names the host that is asked for.
ORIGIN = istr("Origin")
SEC_FETCH_SITE = istr("Sec-Fetch-Site")
HOST = istr("Host")
OWN_SITES = frozenset({"none", "same-origin"})

HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::[0-9]*)?")

# Senders ask for few hosts.
HOSTS_REMEMBERED = 100

# The most of a host that an error repeats, in characters.
HOST_REPEATED = 100


@web.middleware
async def local_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let only requests from this machine through, unless the settings open the API: it shows states and events."""
    app = request.app
    if app[CONTEXT].api_for_all or request.path in app[OPEN_PATHS] or is_from_here(request):
        request[ACCESS] = WITHOUT_KEY
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
        and foreign_origin(headers, any_host=True) is None
    )


def host_of(request: web.BaseRequest) -> str | None:
    """The host that a request asks for. Raises MalformedHeaderError."""
    try:
        return request.url.host
    except ValueError:
        raise MalformedHeaderError(header="Host") from None


@lru_cache(HOSTS_REMEMBERED)
def is_own_name(host: str) -> bool:
    """Say whether a Host header names this machine, in a way that no page of another site can make it do."""
    match = HOST_AND_PORT.fullmatch(host)
    return match is not None and is_loopback((match[1] or match[2]).lower())


def foreign_origin(headers: Mapping[str, str], *, any_host: bool) -> str | None:
    """Say where a request comes from, if a page of another site has made it; `any_host`: it may ask for any host.

    Programs send neither Origin nor Sec-Fetch-Site.
    """
    if ORIGIN in headers or (
        SEC_FETCH_SITE in headers and headers[SEC_FETCH_SITE] not in OWN_SITES
    ):
        return "from a page in a browser"
    # A browser always names one.
    host = "localhost" if any_host else headers.get(HOST, "localhost")
    if not is_own_name(host):
        return f"for the host {host[:HOST_REPEATED]}"
    return None


def is_loopback(host: str | None) -> bool:
    """Say whether an address is one that only this machine itself can reach."""
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
