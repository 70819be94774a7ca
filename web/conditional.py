"""Entity tags, and requests that want an answer only if it is another one than theirs (RFC 9110, 13)."""

import base64
import hashlib
import re

from aiohttp import hdrs, web

# Bytes of a tag's hash: no two answers ever have the same.
TAG_BYTES = 16

# What follows the hash where the body is compressed: other bytes, so another tag.
COMPRESSED = "-gzip"

TAGS = re.compile(r'(?:W/)?"([^"]*)"')


def tag_of(version: str, content_type: str, body: bytes) -> str:
    """The tag of a representation, without quotes.

    It is a hash of the bytes, so of position, mask and fields too; and of the `version` of what they were made from:
    the generation, since what a promotion has confirmed is an answer of its own.
    """
    hashed = hashlib.sha256(f"{version}\n{content_type}\n".encode())
    hashed.update(body)
    return base64.urlsafe_b64encode(hashed.digest()[:TAG_BYTES]).decode().rstrip("=")


def is_known(request: web.BaseRequest, tag: str) -> bool:
    """Say whether whoever asks has the representation of this tag, by If-None-Match."""
    given = request.headers.getall(hdrs.IF_NONE_MATCH, ())
    if not given:
        return False
    text = ",".join(given)
    return text.strip() == "*" or tag in TAGS.findall(text)
