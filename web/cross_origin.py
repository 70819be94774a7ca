"""Pages of other sites that may read the API from a browser: those that the settings name (CORS)."""

from aiohttp import hdrs, web

# The origins that the settings name.
CORS_ORIGINS = web.AppKey("cors_origins", frozenset[str])

# What such a page may send, and read besides the body.
ALLOWED_HEADERS = (
    "Accept, At-Least, Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Request-Id"
)
EXPOSED_HEADERS = "Allow, ETag, Link, Retry-After, WWW-Authenticate, X-Request-Id"

# For how long a browser need not ask again, in seconds.
MAX_AGE = "600"


def allowed_origin(request: web.BaseRequest, origins: frozenset[str]) -> str | None:
    """The origin that a request comes from, if it is one of those."""
    origin = request.headers.get(hdrs.ORIGIN)
    return origin if origin is not None and origin in origins else None


def add_cross_origin_headers(
    request: web.BaseRequest, response: web.StreamResponse, origins: frozenset[str]
) -> None:
    """Tell a browser whether the page that it asks for may read the response."""
    if not origins:
        return
    add_vary(response, hdrs.ORIGIN)
    if (origin := allowed_origin(request, origins)) is None:
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS
    if (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    ):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = response.headers.get(hdrs.ALLOW, "")
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = ALLOWED_HEADERS
        response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = MAX_AGE


def add_vary(response: web.StreamResponse, name: str) -> None:
    """Say that another value of this header of the request may give another response."""
    given = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = name if given is None else f"{given}, {name}"
