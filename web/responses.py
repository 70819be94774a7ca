"""What responses have in common, and what is said to a request that asks only what it might ask."""

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from web.cross_origin import CORS_ORIGINS, add_cross_origin_headers
from web.ingest.delivery import WEBHOOKS
from web.request_ids import REQUEST_ID_HEADER, find_request_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Who answers. The versions of what is inside are nobody's business.
SERVER = "Loopledger"


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Name the server and the request; and have nobody keep states or the health of a moment."""
    headers = response.headers
    headers[hdrs.SERVER] = SERVER
    if (request_id := find_request_id(request)) is not None:
        headers[REQUEST_ID_HEADER] = request_id
    if not request.path.startswith(WEBHOOKS):
        headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        add_cross_origin_headers(request, response, request.app[CORS_ORIGINS])


@web.middleware
async def options(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer OPTIONS for every path, before anybody is asked who they are: a browser asks so on behalf of a page."""
    if request.method != hdrs.METH_OPTIONS:
        return await handler(request)
    if request.path == "*":
        # About the server as a whole (RFC 9110, 9.3.7).
        allowed = {"GET", "HEAD", "POST"}
    elif request.path.startswith(WEBHOOKS):
        allowed = {"POST"}
    elif isinstance(error := request.match_info.http_exception, web.HTTPMethodNotAllowed):
        allowed = error.allowed_methods
    else:
        return await handler(request)
    return web.Response(status=204, headers={hdrs.ALLOW: ", ".join(sorted({*allowed, "OPTIONS"}))})
