"""Webhooks in: read the exact bytes, find out where they belong, put them on record, answer."""

import asyncio
import os
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import web
from asyncpg.pgproto.pgproto import UUID

from eventstore.events import NewEvent
from eventstore.limits import Limits
from providers.provider import Provider
from web.context import CONTEXT
from web.problems import EncodedError, NotFoundError, TooLargeError, TooSlowError

# Headers that let their bearer in somewhere do not go on record.
CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
CREDENTIAL_WORDS = (b"token", b"secret", b"password", b"api-key", b"apikey")

# A sender uses the same few header names all the time.
HEADER_NAMES_REMEMBERED = 1_000


class Ingest:
    """The door of one provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def routes(self) -> list[web.RouteDef]:
        """The routes of this provider."""
        return [web.post(f"/webhooks/{self._provider.name}", self.take)]

    async def take(self, request: web.Request) -> web.Response:
        """`POST /webhooks/<provider>`: 200 with the event's position, after COMMIT."""
        context = request.app[CONTEXT]
        body = await read_body(request, context.limits)
        received_at = datetime.now(UTC)
        recognised = self._provider.recognise(request.headers, body)
        appended = await context.log.append(
            NewEvent(
                event_id=new_event_id(),
                provider=self._provider.name,
                topic=recognised.topic,
                merchant_id=recognised.merchant_id,
                program_id=recognised.program_id,
                stream=recognised.stream,
                received_at=received_at,
                headers=kept_headers(request),
                body=body,
            )
        )
        return web.Response(
            body=b'{"position":%d}' % appended.position, content_type="application/json"
        )


async def unknown_provider(request: web.Request) -> web.Response:
    """Tell a sender that went to the wrong door which ones there are."""
    known = ", ".join(sorted(request.app[CONTEXT].providers))
    raise NotFoundError(what=f"provider {request.match_info['provider']!r}; known are {known}")


def new_event_id() -> UUID:
    """A random UUID (RFC 9562, version 4), made in a third of the time that uuid.uuid4() takes."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes(raw))


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """Read the body as it was sent. Raises EncodedError, TooLargeError, TooSlowError."""
    encoding = request.headers.get("Content-Encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise EncodedError(encoding=encoding)
    if (request.content_length or 0) > limits.body_bytes:
        raise TooLargeError(limit=limits.body_bytes)
    content = request.content
    if content.is_eof():
        # It came with the headers, as small bodies do: there is nothing to wait for.
        body = content.read_nowait()
        if len(body) > limits.body_bytes:
            raise TooLargeError(limit=limits.body_bytes)
        return body
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in content.iter_any():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise TooLargeError(limit=limits.body_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise TooSlowError(seconds=limits.body_seconds) from None
    return b"".join(chunks)


def kept_headers(request: web.Request) -> bytes:
    """The headers as received, less the credentials: "Name: value" lines, each ended by CR LF."""
    return b"".join(
        [
            b"%b: %b\r\n" % (name, value)
            for name, value in request.raw_headers
            if not is_credential(name)
        ]
    )


@lru_cache(HEADER_NAMES_REMEMBERED)
def is_credential(name: bytes) -> bool:
    """Say whether a header's name tells that it carries a credential."""
    lower = name.lower()
    return lower in CREDENTIALS or any(word in lower for word in CREDENTIAL_WORDS)
