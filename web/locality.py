"""Whether a request was made on this machine: neither through a proxy, nor by a page of another site."""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion11, web
from multidict import istr

from web.errors import MalformedHeaderError

# What programs and browsers send of themselves, with answers that need no key. A proxy shows by whatever else it adds.
PLAIN_HEADERS: Final = frozenset(
    {
        *("accept", "accept-charset", "accept-encoding", "accept-language"),
        *("cache-control", "pragma", "if-match", "if-none-match", "if-modified-since"),
        *("if-unmodified-since", "range", "at-least", "last-event-id"),
        *("connection", "keep-alive", "te", "host", "user-agent", "from", "priority"),
        *("content-length", "content-type", "expect", "transfer-encoding"),
        *("cookie", "dnt", "referer", "save-data", "sec-gpc", "upgrade-insecure-requests"),
    }
)
PLAIN_PREFIXES: Final = ("sec-fetch-", "sec-ch-ua")

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


def is_from_here(request: web.BaseRequest) -> bool:
    """Say whether a request was made on this machine, neither through a proxy nor by a page of another site.

    A proxy shows by its headers, or by speaking HTTP/1.0; a page by its Origin; a page that rebinds its name by the
    Host. A proxy that adds and changes nothing cannot be recognised: from the first key on, it need not be. Raises
    MalformedHeaderError.
    """
    headers = request.headers
    hosts = headers.getall(HOST, ())
    try:
        host = request.url.host
    except ValueError:
        raise MalformedHeaderError(header="Host") from None
    return (
        is_loopback(request.remote)
        and request.version >= HttpVersion11
        and len(hosts) == 1
        and is_own_name(hosts[0])
        # An absolute URL in the request line counts instead of the header (RFC 9112, 3.2.2).
        and is_loopback(host)
        and all(map(_is_plain, headers))
        and foreign_origin(headers, any_host=True) is None
    )


def _is_plain(header: str) -> bool:
    name = header.lower()
    return name in PLAIN_HEADERS or name.startswith(PLAIN_PREFIXES)


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


@lru_cache(HOSTS_REMEMBERED)
def is_loopback(host: str | None) -> bool:
    """Say whether an address is one that only this machine itself can reach."""
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
