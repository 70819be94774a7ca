"""Compressed bodies, for whoever asks for them (RFC 9110, 12.5.3)."""

import asyncio
import zlib

from aiohttp import hdrs, web

from web.accepting import quality_of

# A smaller body fits into one packet as it is.
LEAST_BYTES = 1024

# From so many bytes on, compressing takes longer than the event loop should wait.
LARGE_BYTES = 64 * 1024

# What JSON gains from more is little, and costs as much again.
LEVEL = 3

# Bits of zlib's window, and that it writes gzip.
GZIP = 16 + zlib.MAX_WBITS

COMPRESSIBLE = ("application/json", "application/problem+json", "application/x-ndjson", "text/")


def is_compressible(content_type: str) -> bool:
    """Say whether a type of content becomes smaller: it is text."""
    return content_type.startswith(COMPRESSIBLE) and content_type != "text/event-stream"


def accepts_gzip(request: web.BaseRequest) -> bool:
    """Say whether whoever asks takes gzip, and likes it no less than the body as it is."""
    given = request.headers.getall(hdrs.ACCEPT_ENCODING, ())
    if not given:
        return False
    named = quality_of(",".join(given))
    gzip = named.get("gzip", named.get("x-gzip", named.get("*", 0.0)))
    return gzip > 0 and gzip >= named.get("identity", 0.0)


async def compress(body: bytes) -> bytes:
    """The body as gzip."""
    if len(body) < LARGE_BYTES:
        return zlib.compress(body, LEVEL, GZIP)
    return await asyncio.to_thread(zlib.compress, body, LEVEL, GZIP)
