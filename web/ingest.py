"""Webhooks in: read the exact bytes, find out where they belong, put them on record, answer."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from aiohttp import web

from eventstore.events import NewEvent
from eventstore.limits import Limits
from web.context import CONTEXT, json_answer
from web.problems import EncodedError, NotFoundError, TooLargeError, TooSlowError

# Headers that let their bearer in somewhere do not go on record.
CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
CREDENTIAL_WORDS = (b"token", b"secret", b"password", b"api-key", b"apikey")


async def ingest(request: web.Request) -> web.Response:
    """`POST /webhooks/{provider}`: 200 with the event's position, after COMMIT."""
    context = request.app[CONTEXT]
    name = request.match_info["provider"]
    provider = context.providers.get(name)
    if provider is None:
        known = ", ".join(sorted(context.providers))
        raise NotFoundError(what=f"provider {name!r}; known are {known}")
    body = await read_body(request, context.limits)
    received_at = datetime.now(UTC)
    recognised = provider.recognise(request.headers, body)
    appended = await context.log.append(
        NewEvent(
            event_id=uuid4(),
            provider=name,
            topic=recognised.topic,
            merchant_id=recognised.merchant_id,
            program_id=recognised.program_id,
            stream=recognised.stream,
            received_at=received_at,
            headers=kept_headers(request),
            body=body,
        )
    )
    return json_answer({"position": appended.position})


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """Read the body as it was sent. Raises EncodedError, TooLargeError, TooSlowError."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise EncodedError(encoding=encoding)
    if (request.content_length or 0) > limits.body_bytes:
        raise TooLargeError(limit=limits.body_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.content.iter_any():
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
        b"%b: %b\r\n" % (name, value)
        for name, value in request.raw_headers
        if not is_credential(name)
    )


def is_credential(name: bytes) -> bool:
    """Say whether a header's name tells that it carries a credential."""
    lower = name.lower()
    return lower in CREDENTIALS or any(word in lower for word in CREDENTIAL_WORDS)
