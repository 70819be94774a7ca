"""What responses have in common, and what is said to a request that only misses a path."""

from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Who answers. The versions of what is inside are nobody's business.
SERVER = "Loopledger"


async def add_common_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Name the server; and have nobody keep states, events or the health of a moment."""
    response.headers["Server"] = SERVER
    if not request.path.startswith("/webhooks/"):
        response.headers.setdefault("Cache-Control", "no-store")


@web.middleware
async def near_misses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer OPTIONS for every path; and lead from a path with a slash at its end to the one without."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        if request.method != "OPTIONS":
            raise
        return web.Response(
            status=204, headers={"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
        )
    except web.HTTPNotFound:
        if request.method == "OPTIONS" and request.path == "*":
            # About the server as a whole (RFC 9110, 9.3.7).
            return web.Response(status=204, headers={"Allow": "GET, HEAD, OPTIONS, POST"})
        path = request.rel_url.raw_path
        # More than one slash at the start would lead to another host.
        if not path.endswith("/") or path.startswith("//"):
            raise
        shorter = request.rel_url.with_path(path.rstrip("/") or "/", encoded=True, keep_query=True)
        found = await request.app.router.resolve(request.clone(rel_url=shorter))
        if found.http_exception is not None:
            raise
        return web.Response(status=308, headers={"Location": str(shorter)})
