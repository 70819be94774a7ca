"""Reading the body of a delivery: as it was sent, within limits of size, time and memory."""

import asyncio

from aiohttp import web
from aiohttp.client_exceptions import ClientError

from eventstore.errors import QueueFullError
from eventstore.limits import Limits
from web.errors import CutShortError, EncodedError, ExpectationError, TooLargeError, TooSlowError


class BodyReader:
    """Reads bodies, at one time no more than `limits.reading_bytes`, so that strangers cannot fill the memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reading = 0

    def at_hand(self, request: web.BaseRequest) -> bytes:
        """The body, if it came together with its head and may be kept as it is; else nothing."""
        headers = request.headers
        if (
            not request.content.is_eof()
            or not 0 < (request.content_length or 0) <= self._limits.body_bytes
            or "Expect" in headers
            or "Content-Encoding" in headers
        ):
            return b""
        return request.content.read_nowait()

    async def read(self, request: web.BaseRequest) -> bytes:
        """Read the body as it was sent, and have it sent first if its sender waits for that.

        Raises EncodedError, TooLargeError, TooSlowError, CutShortError, ExpectationError, QueueFullError.
        """
        limits = self._limits
        size = min(request.content_length or limits.body_bytes, limits.body_bytes)
        if request.content.is_eof():
            # It is here: there is nothing to wait for.
            size = 0
        elif self._reading + size > limits.reading_bytes:
            raise QueueFullError(deliveries="many", size=self._reading)
        self._reading += size
        try:
            await _check_framing(request, limits)
            return await _read(request, limits)
        finally:
            self._reading -= size


async def _read(request: web.BaseRequest, limits: Limits) -> bytes:
    content = request.content
    chunks: list[bytes] = []
    size = 0
    try:
        if content.is_eof():
            chunks = [content.read_nowait()]
            size = len(chunks[0])
        else:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in content.iter_any():
                    size += len(chunk)
                    chunks.append(chunk)
                    if size > limits.body_bytes:
                        break
    except TimeoutError:
        raise TooSlowError(seconds=limits.body_seconds) from None
    except (web.PayloadAccessError, ClientError, ConnectionError) as error:
        raise CutShortError(problem=type(error).__name__) from None
    if size > limits.body_bytes:
        raise TooLargeError(limit=limits.body_bytes)
    return b"".join(chunks)


async def _check_framing(request: web.BaseRequest, limits: Limits) -> None:
    """Check what the head says of the body, and have it sent if its sender waits for that."""
    headers = request.headers
    if "Content-Encoding" in headers:
        encoding = ", ".join(headers.getall("Content-Encoding"))
        if encoding.lower() != "identity":
            raise EncodedError(encoding=encoding)
    if (request.content_length or 0) > limits.body_bytes:
        raise TooLargeError(limit=limits.body_bytes)
    if (expectation := headers.get("Expect")) is not None:
        if expectation.lower() != "100-continue":
            raise ExpectationError(expectation=expectation)
        # RFC 9110, 10.1.1
        if request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
