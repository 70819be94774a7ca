"""How an answer goes out: as it is, compressed, or not at all if whoever asks has it."""

from http import HTTPStatus

from aiohttp import hdrs, web

from web.compression import LEAST_BYTES, accepts_gzip, compress, is_compressible
from web.conditional import COMPRESSED, is_known, tag_of
from web.cross_origin import add_vary

# What a 304 has of the response in whose place it stands (RFC 9110, 15.4.5), and where the list goes on.
KEPT = (hdrs.ETAG, hdrs.CACHE_CONTROL, hdrs.VARY, hdrs.LINK)


async def represent(
    request: web.Request, response: web.Response, version: str | None
) -> web.Response:
    """Compress a body if that is asked for, and leave it out if whoever asks has it.

    It is made from this `version` of something; from None of which it can be said.
    """
    body = response.body
    if not isinstance(body, bytes):
        return response
    compressed = False
    if is_compressible(response.content_type):
        add_vary(response, hdrs.ACCEPT_ENCODING)
        compressed = len(body) >= LEAST_BYTES and accepts_gzip(request)
    if version is not None:
        tag = tag_of(version, response.content_type, body) + (COMPRESSED if compressed else "")
        response.headers[hdrs.ETAG] = f'"{tag}"'
        if is_known(request, tag):
            kept = {name: response.headers[name] for name in KEPT if name in response.headers}
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=kept)
    if compressed:
        response.body = await compress(body)
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
    return response
