"""Webhooks in: admit a delivery, verify it, find out where it belongs, put it on record, respond."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import web

from eventstore.errors import (
    LoopledgerError,
    NotFoundError,
    QueueFullError,
    RefusedError,
    UnavailableError,
    printable,
)
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.batch import OnOutcome
from eventstore.log.event_ids import new_event_id
from eventstore.log.events import Appended, NewEvent
from eventstore.log.relay_client import RelayingAppender
from eventstore.rejections import NewRejection, Rejections
from providers.provider import Recognised, UnidentifiedError, UnparsableError
from verification.delivery import Delivery
from verification.keyring import UnverifiedError
from verification.verifier import Claims
from web.context import Endpoint
from web.errors import (
    CutShortError,
    EncodedError,
    ExpectationError,
    TooLargeError,
    TooManyError,
    TooSlowError,
)
from web.ingest.body import BodyReader
from web.ingest.counting import DeliveryCounts
from web.ingest.delivery import delivery_of
from web.ingest.headers import HeaderFilter
from web.ingest.rate import RateLimiter, rate_key
from web.problems import INTERNAL, PROBLEM_TYPES, outcome_of, problem_response, problem_type_of

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

# Why else a delivery gets no 200.
NOT_ON_RECORD = (ExpectationError, QueueFullError, UnavailableError)

# What may become of a delivery that is refused, as metrics have it.
OUTCOMES = sorted(
    {
        *(PROBLEM_TYPES[error].cause.lower() for error in (*REJECTED, *NOT_ON_RECORD)),
        INTERNAL.cause.lower(),
    }
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Receives the deliveries of every provider in `endpoints`."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        appender: Appender | RelayingAppender,
        rejections: Rejections,
        limits: Limits,
    ) -> None:
        self._endpoints = endpoints
        self._appender = appender
        self._rejections = rejections
        self._bodies = BodyReader(limits)
        self._rate_key = lru_cache(limits.addresses_remembered)(rate_key)
        self._rate = RateLimiter(limits)
        self._headers = _header_filter(endpoints.values())
        self.counts = DeliveryCounts(
            {name: endpoint.verifier.configured for name, endpoint in endpoints.items()}, OUTCOMES
        )

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Receive deliveries before the other middlewares; every other request goes on to `handler`."""
        delivery = delivery_of(request)
        return await (handler(request) if delivery is None else self._receive(delivery, request))

    async def _receive(self, delivery: Delivery, request: web.Request) -> web.Response:
        """`POST /webhooks/<provider>`: 200 with the event's position, after COMMIT; else a problem."""
        try:
            delivery.body = self._bodies.at_hand(request)
            endpoint = self._admit(delivery)
            claims = endpoint.verifier.check_head(delivery)
            if not delivery.body:
                delivery.body = await self._bodies.read(request)
            appended = await self._appender.append(self._event(endpoint, delivery, claims))
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            response = self.refuse(delivery, error)
            if not request.content.is_eof():
                # The rest of a refused request is not waited for.
                response.force_close()
            return response
        self.counts.count_accepted(delivery)
        return web.Response(body=acknowledgement(appended), content_type="application/json")

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        """Receive a delivery that is here as a whole; `on_outcome` is called as by `Appender.submit`.

        Of what is raised here, or given to `on_outcome`, `refuse` makes the response.
        """
        endpoint = self._admit(delivery)
        claims = endpoint.verifier.check_head(delivery)
        self._appender.submit(self._event(endpoint, delivery, claims), on_outcome)

    def refuse(self, delivery: Delivery, error: Exception) -> web.Response:
        """Make the response to a delivery that failed; goes on record if the sender or our settings can mend it."""
        if isinstance(error, REJECTED):
            self._note(delivery, error)
        self.counts.count_refused(delivery, outcome_of(error))
        return problem_response(error, "POST")

    def _admit(self, delivery: Delivery) -> Endpoint:
        """Find the endpoint, unless the sender's address sends too much. Raises TooManyError, NotFoundError."""
        endpoint = self._endpoints.get(delivery.provider)
        self._limit_rate(endpoint, delivery)
        if endpoint is None:
            known = ", ".join(sorted(self._endpoints))
            raise NotFoundError(what=f"provider {delivery.provider!r}; known are {known}")
        return endpoint

    def _event(self, endpoint: Endpoint, delivery: Delivery, claims: Claims) -> NewEvent:
        """Check the body of a delivery, and find out where it belongs."""
        endpoint.verifier.check_body(delivery, claims)
        delivery.verified = True
        recognised = recognise(endpoint, delivery)
        headers = self._headers.block(delivery, recognised)
        return new_event(new_event_id(), delivery, recognised, headers)

    def _limit_rate(self, endpoint: Endpoint | None, delivery: Delivery) -> None:
        address = delivery.address
        if endpoint is not None:
            try:
                address = endpoint.verifier.sender_address(delivery)
            except UnverifiedError:
                # The header of the proxies is incomplete: only the address of the connection is known.
                address = delivery.address
        key = self._rate_key(address)
        if wait := self._rate.admit(key, asyncio.get_running_loop().time()):
            raise TooManyError(seconds=round(wait, 3))

    def _identity(self, delivery: Delivery) -> bytes:
        endpoint = self._endpoints.get(delivery.provider)
        named = endpoint.provider.identity_headers if endpoint else ()
        return printable("\0".join(delivery.headers.get(header, "") for header in named)).encode()

    def _note(self, delivery: Delivery, error: LoopledgerError) -> None:
        problem_type = problem_type_of(error)
        # Who sends too much is one rejection, whatever the bodies: else a flood would push all others out.
        body = b"" if isinstance(error, TooManyError) else delivery.body
        self._rejections.note(
            NewRejection(
                provider=delivery.provider,
                cause=problem_type.cause if problem_type else "UNKNOWN",
                problem=str(error),
                address=delivery.address,
                identity=self._identity(delivery),
                headers=self._headers.lines(delivery),
                body=body,
                # Where the body was not read, what the head says of it.
                size=len(body) or int(delivery.headers.get("Content-Length", 0)),
                at=datetime.now(UTC),
            )
        )


def _header_filter(endpoints: Iterable[Endpoint]) -> HeaderFilter:
    """Keep what any provider is recognised, or any signature checked, by."""
    kept: set[str] = set()
    credentials: set[bytes] = set()
    secrets: set[bytes] = set()
    for endpoint in endpoints:
        kept |= {*endpoint.provider.identity_headers, *endpoint.provider.kept_headers}
        kept |= endpoint.verifier.signature_headers
        credentials |= endpoint.verifier.credential_headers
        secrets |= endpoint.verifier.secrets
    return HeaderFilter(kept, credentials, secrets)


def acknowledgement(appended: Appended) -> bytes:
    """The body of a 200."""
    return b'{"position":%d}\n' % appended.position


def recognise(endpoint: Endpoint, delivery: Delivery) -> Recognised:
    """Find out where a delivery belongs, and that its tenant is allowed."""
    recognised = endpoint.provider.recognise(delivery.headers, delivery.body)
    endpoint.verifier.check_tenant(
        recognised.merchant_id, recognised.program_id, recognised.subscription_id
    )
    return recognised


def new_event(
    event_id: uuid.UUID, delivery: Delivery, recognised: Recognised, headers: bytes
) -> NewEvent:
    """Make the event that a delivery becomes; `headers` are those that go on record."""
    return NewEvent(
        event_id=event_id,
        provider=delivery.provider,
        topic=recognised.topic,
        merchant_id=recognised.merchant_id,
        program_id=recognised.program_id,
        stream=recognised.stream,
        received_at=delivery.received_at,
        headers=headers,
        body=delivery.body,
    )
