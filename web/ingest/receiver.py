"""Webhooks in: read the exact bytes, verify, find out where they belong, put them on record, answer."""

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import web
from aiohttp.client_exceptions import ClientError
from asyncpg.pgproto.pgproto import UUID

from eventstore.errors import LoopledgerError, QueueFullError, RefusedError, printable
from eventstore.limits import Limits
from eventstore.log.appender import OnOutcome
from eventstore.log.events import Appended, NewEvent
from eventstore.rejections import NewRejection
from providers.provider import Recognised, UnidentifiedError, UnparsableError
from verification.keyring import UnverifiedError
from verification.verifier import Presented
from web.context import Context, Endpoint
from web.ingest.rate import RateLimiter, rate_key
from web.problems import (
    CutShortError,
    EncodedError,
    ExpectationError,
    NotFoundError,
    TooLargeError,
    TooManyError,
    TooSlowError,
    answer_for,
    problem_of,
)

# Headers that let their bearer in somewhere do not go on record.
CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
CREDENTIAL_WORDS = (b"token", b"secret", b"password", b"api-key", b"apikey")

# Put before the headers of an event that was refused at first.
REJECTION_HEADER = b"loopledger-rejection"

# What is asked of the kernel's random numbers at a time.
RANDOM_BYTES = 4096

# A sender uses the same few header names all the time.
HEADER_NAMES_REMEMBERED = 1_000

SUBSCRIPTION_HEADER = "X-LOOPZ-WEBHOOK-SUBSCRIPTION-ID"

# What is put on record as a rejection: what the sender, or our settings, can mend.
REJECTED = (
    UnverifiedError,
    UnparsableError,
    UnidentifiedError,
    TooLargeError,
    EncodedError,
    TooSlowError,
    CutShortError,
    RefusedError,
    TooManyError,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Arrival(Presented, frozen=True):
    """The head of a delivery: what it presents, whose it claims to be, and its headers as they were sent."""

    provider: str
    raw_headers: tuple[tuple[bytes, bytes], ...]


class Ingest:
    """Takes the deliveries of every provider."""

    def __init__(self, context: Context) -> None:
        self._endpoints = context.endpoints
        self._appender = context.appender
        self._rejections = context.rejections
        self._limits = context.limits
        self._reading = 0
        self._rate_key = lru_cache(context.limits.addresses_remembered)(rate_key)
        self._rate = RateLimiter(context.limits)
        self._credentials = frozenset[bytes]().union(
            *(endpoint.verifier.credential_headers for endpoint in context.endpoints.values())
        )
        self._is_credential = lru_cache(HEADER_NAMES_REMEMBERED)(self._looks_like_credential)

    def before(self, handler: Handler) -> Handler:
        """Answer deliveries before an application does: its routing and middlewares cost as much as all of this."""

        async def dispatch(request: web.Request) -> web.StreamResponse:
            if request.method == "POST":
                _, webhooks, *rest = request.rel_url.raw_path.split("/", 3)
                if webhooks == "webhooks" and rest:
                    return await self._take(request, rest[0], rest[1] if rest[1:] else None)
            return await handler(request)

        return dispatch

    async def _take(self, request: web.Request, name: str, secret: str | None) -> web.Response:
        """`POST /webhooks/<provider>`: 200 with the event's position, after COMMIT; else a problem."""
        arrival = Arrival(request.headers, request.remote or "", secret, name, request.raw_headers)
        body = b""
        try:
            endpoint = self._admit(arrival)
            body = await self._read(request)
            appended = await self._appender.append(self._event(endpoint, arrival, body))
        except Exception as error:  # noqa: BLE001 - every error becomes an answer
            return self.refusal(arrival, error, body, request.content_length or 0)
        return web.Response(body=acknowledgement(appended), content_type="application/json")

    def take(self, arrival: Arrival, body: bytes, on_outcome: OnOutcome) -> None:
        """Take a delivery that is here as a whole. Raises what `refusal` answers; so may be what is told."""
        self._appender.submit(self._event(self._admit(arrival), arrival, body), on_outcome)

    def refusal(
        self, arrival: Arrival, error: Exception, body: bytes, announced: int
    ) -> web.Response:
        """Put a refusal on record, if the sender or our settings are at fault; gives back the answer.

        `announced` is the size of the body, as far as it is known.
        """
        if isinstance(error, REJECTED):
            # Who sends too much is one rejection, whatever the bodies: else a flood would push all others out.
            kept = b"" if isinstance(error, TooManyError) else body
            self._note(arrival, error, kept, announced)
        return problem_of(error, "POST")

    def _admit(self, arrival: Arrival) -> Endpoint:
        self._limit_rate(self._endpoints.get(arrival.provider), arrival)
        return self._door(arrival.provider)

    def _event(self, endpoint: Endpoint, arrival: Arrival, body: bytes) -> NewEvent:
        """Verify a delivery, and find out where it belongs."""
        received_at = datetime.now(UTC)
        endpoint.verifier.check(arrival, body, received_at)
        return new_event(
            new_event_id(),
            arrival.provider,
            recognise(endpoint, arrival.headers, body),
            received_at,
            self._kept_headers(arrival),
            body,
        )

    def _door(self, name: str) -> Endpoint:
        if (endpoint := self._endpoints.get(name)) is not None:
            return endpoint
        known = ", ".join(sorted(self._endpoints))
        raise NotFoundError(what=f"provider {name!r}; known are {known}")

    async def _read(self, request: web.Request) -> bytes:
        """Read the body, unless so much is being read already that strangers could fill the memory."""
        if request.content.is_eof():
            return await read_body(request, self._limits)
        size = min(request.content_length or self._limits.body_bytes, self._limits.body_bytes)
        if self._reading + size > self._limits.reading_bytes:
            raise QueueFullError(deliveries="many", size=self._reading)
        self._reading += size
        try:
            return await read_body(request, self._limits)
        finally:
            self._reading -= size

    def _limit_rate(self, endpoint: Endpoint | None, presented: Presented) -> None:
        try:
            address = endpoint.verifier.sender(presented) if endpoint else presented.address
        except UnverifiedError:
            # Not what its proxies should say of it: then the nearest is all that is known.
            address = presented.address
        key = self._rate_key(address)
        if wait := self._rate.admit(key, asyncio.get_running_loop().time()):
            raise TooManyError(seconds=round(wait, 3))

    def _identity(self, arrival: Arrival) -> bytes:
        endpoint = self._endpoints.get(arrival.provider)
        named = endpoint.provider.identity_headers if endpoint else ()
        return printable("\0".join(arrival.headers.get(header, "") for header in named)).encode()

    def _note(self, arrival: Arrival, error: LoopledgerError, body: bytes, announced: int) -> None:
        answer = answer_for(error)
        self._rejections.note(
            NewRejection(
                provider=arrival.provider,
                cause=answer.cause if answer else "UNKNOWN",
                problem=str(error),
                address=arrival.address,
                identity=self._identity(arrival),
                headers=self._kept_headers(arrival),
                body=body,
                size=len(body) or announced,
                at=datetime.now(UTC),
            )
        )

    def _kept_headers(self, arrival: Arrival) -> bytes:
        """The headers as received, less the credentials: "Name: value" lines, each ended by CR LF.

        Proxies repeat the path that was asked for, and with it the secret in it.
        """
        pairs = arrival.raw_headers
        if arrival.path_secret:
            shown = arrival.path_secret.encode("utf-8", "surrogateescape")
            pairs = tuple(pair for pair in pairs if shown not in pair[1])
        return b"".join(
            [b"%b: %b\r\n" % pair for pair in pairs if not self._is_credential(pair[0])]
        )

    def _looks_like_credential(self, name: bytes) -> bool:
        lower = name.lower()
        return (
            # Our own mark of a rejection that was tried again is nobody else's to make.
            lower == REJECTION_HEADER
            or lower in CREDENTIALS
            or lower in self._credentials
            or any(word in lower for word in CREDENTIAL_WORDS)
        )


def acknowledgement(appended: Appended) -> bytes:
    """The body of a 200."""
    return b'{"position":%d}\n' % appended.position


def recognise(endpoint: Endpoint, headers: Mapping[str, str], body: bytes) -> Recognised:
    """Find out where a delivery belongs, and that its tenant is one of those that are taken."""
    recognised = endpoint.provider.recognise(headers, body)
    endpoint.verifier.check_tenant(
        recognised.merchant_id, recognised.program_id, headers.get(SUBSCRIPTION_HEADER)
    )
    return recognised


def new_event(
    event_id: uuid.UUID,
    provider: str,
    recognised: Recognised,
    received_at: datetime,
    headers: bytes,
    body: bytes,
) -> NewEvent:
    """Make the event that a delivery becomes."""
    return NewEvent(
        event_id=event_id,
        provider=provider,
        topic=recognised.topic,
        merchant_id=recognised.merchant_id,
        program_id=recognised.program_id,
        stream=recognised.stream,
        received_at=received_at,
        headers=headers,
        body=body,
    )


def _random() -> Iterator[bytes]:
    """Random bytes, 16 at a time: the kernel is asked once for many."""
    while True:
        block = os.urandom(RANDOM_BYTES)
        for begin in range(0, RANDOM_BYTES, 16):
            yield block[begin : begin + 16]


_RANDOM = _random()


def new_event_id() -> UUID:
    """A random UUID (RFC 9562, version 4), made in a fraction of the time that uuid.uuid4() takes."""
    raw = bytearray(next(_RANDOM))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return UUID(bytes(raw))


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """Read the body as it was sent.

    Raises EncodedError, TooLargeError, TooSlowError, CutShortError, ExpectationError.
    """
    await _check_framing(request, limits)
    content = request.content
    chunks: list[bytes] = []
    size = 0
    try:
        if content.is_eof():
            # It came with the headers, as small bodies do: there is nothing to wait for.
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


async def _continue(request: web.Request, expectation: str) -> None:
    """Tell a sender that asks first that it may send its body (RFC 9110, 10.1.1)."""
    if expectation.lower() != "100-continue":
        raise ExpectationError(expectation=expectation)
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _check_framing(request: web.Request, limits: Limits) -> None:
    """Check what the head says of the body, and have it sent if that is waited for."""
    headers = request.headers
    if "Content-Encoding" in headers:
        encoding = ", ".join(headers.getall("Content-Encoding"))
        if encoding.lower() != "identity":
            raise EncodedError(encoding=encoding)
    if (request.content_length or 0) > limits.body_bytes:
        raise TooLargeError(limit=limits.body_bytes)
    if (expectation := headers.get("Expect")) is not None:
        await _continue(request, expectation)
