"""Reading the body of a delivery: as it was sent, within limits of size, time and memory."""

import asyncio

from aiohttp import web
from aiohttp.client_exceptions import ClientError

from eventstore.errors import QueueFullError
from eventstore.limits import Limits
from web.errors import (
    CrowdedError,
    CutShortError,
    EncodedError,
    ExpectationError,
    TooLargeError,
    TooSlowError,
)

# More than the body of a usual delivery, in bytes.
LARGE_BYTES = 64 * 1024


class _Reading:
    """A body that is being read."""

    __slots__ = ("crowded", "known", "size", "timer")

    def __init__(self, timer: asyncio.Timeout, *, known: bool) -> None:
        self.known = known
        self.size = 0
        self.timer = timer
        self.crowded = False


class BodyReader:
    """Reads bodies, and counts them as they come: senders whose heads verified them apart from strangers.

    Of the known no more than `limits.reading_bytes` are read at one time, of strangers no more than
    `limits.stranger_reading_bytes`: whoever of them began first gives way to who comes, of large bodies before others.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known = 0
        self._strange = 0
        # Those that began first come first; and of them those that are large.
        self._strangers: dict[_Reading, None] = {}
        self._large: dict[_Reading, None] = {}

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

    async def read(self, request: web.BaseRequest, *, known: bool) -> bytes:
        """Read the body as it was sent, and have it sent first if its sender waits for that.

        `known`: the head has shown who sends it. Raises EncodedError, TooLargeError, TooSlowError, CutShortError,
        ExpectationError, QueueFullError, CrowdedError.
        """
        limits, content = self._limits, request.content
        _check_framing(request, limits)
        if content.is_eof():
            body = content.read_nowait()
            if len(body) > limits.body_bytes:
                raise TooLargeError(limit=limits.body_bytes)
            return body
        reading = None
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(limits.body_seconds) as timer:
                reading = self._begin(timer, known=known)
                async for chunk in content.iter_any():
                    self._count(reading, len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            if reading is not None and reading.crowded:
                raise CrowdedError from None
            raise TooSlowError(seconds=limits.body_seconds) from None
        except (
            web.PayloadAccessError,
            web.RequestPayloadError,
            ClientError,
            ConnectionError,
        ) as error:
            raise CutShortError(problem=type(error).__name__) from None
        finally:
            if reading is not None:
                self._end(reading)
        return b"".join(chunks)

    def _begin(self, timer: asyncio.Timeout, *, known: bool) -> _Reading:
        reading = _Reading(timer, known=known)
        if not known:
            self._strangers[reading] = None
        return reading

    def _count(self, reading: _Reading, size: int) -> None:
        """Count what came. Raises TooLargeError, QueueFullError, CrowdedError."""
        limits = self._limits
        if reading.size + size > limits.body_bytes:
            raise TooLargeError(limit=limits.body_bytes)
        if reading.known:
            if self._known + size > limits.reading_bytes:
                raise QueueFullError(deliveries="many", size=self._known)
            self._known += size
            reading.size += size
            return
        self._strange += size
        reading.size += size
        if reading.size > LARGE_BYTES:
            self._large[reading] = None
        while self._strange > limits.stranger_reading_bytes:
            slowest = next(iter(self._large or self._strangers))
            self._end(slowest)
            if slowest is reading:
                raise CrowdedError
            slowest.crowded = True
            slowest.timer.reschedule(asyncio.get_running_loop().time())

    def _end(self, reading: _Reading) -> None:
        if reading.known:
            self._known -= reading.size
        elif reading in self._strangers:
            del self._strangers[reading]
            self._large.pop(reading, None)
            self._strange -= reading.size


def _check_framing(request: web.BaseRequest, limits: Limits) -> None:
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
