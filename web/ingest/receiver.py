"""Webhooks in: admit a delivery, verify it, find out where it belongs, put it on record, respond."""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic

import structlog
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
from verification.redaction import Redactor
from verification.verifier import Claims
from web.context import Endpoint
from web.errors import (
    CutShortError,
    EncodedError,
    ExpectationError,
    ForeignError,
    TooLargeError,
    TooManyError,
    TooSlowError,
)
from web.ingest.body import BodyReader
from web.ingest.counting import DeliveryCounts
from web.ingest.delivery import delivery_of
from web.ingest.headers import HeaderFilter
from web.ingest.known import is_known, set_known, set_refused
from web.ingest.rate import AddressMeters, rate_key
from web.locality import foreign_origin
from web.problems import INTERNAL, PROBLEM_TYPES, outcome_of, problem_response, problem_type_of
from web.request_ids import request_id_from

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
    ForeignError,
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

# What a sender that is not verified may do wrong: it is counted against its address.
FAILURES = (*REJECTED, NotFoundError, ExpectationError)

# What proxies add.
PROXY_HEADERS = ("X-Forwarded-For", "Forwarded")

# Of a Content-Length that is believed, in digits.
LONGEST_LENGTH = 18

# Topics that the log tells of: where nothing verifies, a sender may invent more and more of them.
MOST_TOPICS_TOLD = 100

logger = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """Receives the deliveries of every provider in `endpoints`."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        appender: Appender | RelayingAppender,
        rejections: Rejections,
        limits: Limits,
        keep_headers: Iterable[str] = (),
        *,
        any_host: bool = False,
    ) -> None:
        """Make one. `any_host`: deliveries that nothing verifies are taken under any name of this server."""
        self._endpoints = endpoints
        self._appender = appender
        self._rejections = rejections
        self._any_host = any_host
        self._bodies = BodyReader(limits)
        self.rate_key = lru_cache(limits.addresses_remembered)(rate_key)
        self._meters = AddressMeters(limits)
        self._redactor = Redactor(
            secret for each in endpoints.values() for secret in each.verifier.secrets
        )
        self._headers = _header_filter(endpoints.values(), keep_headers, self._redactor)
        self._proxy_suspected = False
        self._topics_told: set[tuple[str, str]] = set()
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
            endpoint, claims = self._admit(delivery)
            known = endpoint.verifier.needs_credentials
            if known:
                # By its head alone: it need not give way while its body is on its way.
                set_known(request)
            if not delivery.body:
                delivery.body = await self._bodies.read(request, known=known or is_known(request))
            event = self._event(endpoint, delivery, claims)
            if not endpoint.verifier.checks_nothing:
                set_known(request)
            appended = await self._appender.append(event)
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            if isinstance(error, UnverifiedError):
                set_refused(request)
            response = self.refuse(delivery, error)
            if not request.content.is_eof():
                # The rest of a refused request is not waited for.
                response.force_close()
            return response
        self.counts.count_accepted(delivery)
        return web.Response(body=acknowledgement(appended), content_type="application/json")

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> bool:
        """Receive a delivery that is here as a whole; says whether it is verified.

        `on_outcome` is called as by `Appender.submit`.

        Of what is raised here, or given to `on_outcome`, `refuse` makes the response.
        """
        endpoint, claims = self._admit(delivery)
        self._appender.submit(self._event(endpoint, delivery, claims), on_outcome)
        return not endpoint.verifier.checks_nothing

    def trusts_address(self, address: str) -> bool:
        """Whether connections from an address are a provider's, by its allow-list, or may be a proxy's."""
        return any(each.verifier.trusts_address(address) for each in self._endpoints.values())

    def refuse(self, delivery: Delivery, error: Exception) -> web.Response:
        """Make the response to a delivery that failed; goes on record if the sender or our settings can mend it."""
        if not delivery.verified and isinstance(error, FAILURES):
            error = self._count_failure(delivery, error)
        if isinstance(error, REJECTED) and delivery.provider in self._endpoints:
            self._note(delivery, error)
        self.counts.count_refused(delivery, outcome_of(error))
        return problem_response(error, "POST", request_id_from(delivery.headers))

    def _admit(self, delivery: Delivery) -> tuple[Endpoint, Claims]:
        """Find the endpoint and check the head. Raises TooManyError, NotFoundError, ForeignError, UnverifiedError."""
        endpoint = self._endpoints.get(delivery.provider)
        if endpoint is None:
            known = ", ".join(sorted(self._endpoints))
            raise NotFoundError(what=f"provider {delivery.provider[:100]!r}; known are {known}")
        if not endpoint.verifier.configured:
            what = foreign_origin(delivery.headers, any_host=self._any_host)
            if what is not None:
                raise ForeignError(what=what)
        claims = endpoint.verifier.check_head(delivery)
        if not endpoint.verifier.signs:
            self._admit_verified(endpoint, delivery)
        return endpoint, claims

    def _event(self, endpoint: Endpoint, delivery: Delivery, claims: Claims) -> NewEvent:
        """Check the body of a delivery, and find out where it belongs."""
        if endpoint.verifier.signs:
            if self._meters.failed:
                self._admit_signature(endpoint, delivery)
            endpoint.verifier.check_body(delivery, claims)
            self._admit_verified(endpoint, delivery)
        recognised = recognise(endpoint, delivery)
        if recognised.topic not in endpoint.provider.topics:
            self._tell_of_topic(delivery.provider, recognised.topic)
        headers = self._headers.block(delivery, recognised)
        return new_event(new_event_id(), delivery, recognised, headers)

    def _tell_of_topic(self, provider: str, topic: str) -> None:
        """Log a topic that no projection handles, once: else nobody notices what a provider has begun to send."""
        told = (provider, topic)
        if told in self._topics_told or len(self._topics_told) == MOST_TOPICS_TOLD:
            return
        self._topics_told.add(told)
        logger.warning(
            "topic_unknown",
            message="A delivery has a topic that no projection handles; it is put on record, and folded by none.",
            provider=provider,
            topic=topic,
        )

    def _admit_verified(self, endpoint: Endpoint, delivery: Delivery) -> None:
        """Count what was verified. Raises TooManyError if its address sends too much."""
        delivery.verified = True
        if wait := self._meters.verified.admit(self._sender(endpoint, delivery), monotonic()):
            raise TooManyError(seconds=round(wait, 3))

    def _admit_signature(self, endpoint: Endpoint, delivery: Delivery) -> None:
        """Bound what is computed for an address that failed too often. Raises TooManyError."""
        size = len(delivery.body) + endpoint.verifier.signature_bytes
        sender = self._sender(endpoint, delivery)
        if wait := self._meters.admit_signature(sender, size, monotonic()):
            raise TooManyError(seconds=round(wait, 3))

    def _count_failure(self, delivery: Delivery, error: Exception) -> Exception:
        """Count what was not verified; gives back what its sender is told."""
        endpoint = self._endpoints.get(delivery.provider)
        sender = self._sender(endpoint, delivery)
        wait = self._meters.failed.admit(sender, monotonic())
        if (
            not self._proxy_suspected
            and endpoint is not None
            and not endpoint.verifier.declares_proxies
            and sender in self._meters.verified
            and any(name in delivery.headers for name in PROXY_HEADERS)
        ):
            self._proxy_suspected = True
            logger.warning(
                "proxy_suspected",
                message="Deliveries that are verified and others that are not come from one address, with headers that "
                "proxies add: if it is a proxy of yours, set trusted_proxies, or all its senders share one limit.",
                provider=delivery.provider,
                address=sender,
            )
        return TooManyError(seconds=round(wait, 3)) if wait else error

    def _sender(self, endpoint: Endpoint | None, delivery: Delivery) -> str:
        """What the sender of a delivery is counted under."""
        address = delivery.address
        if endpoint is not None and endpoint.verifier.declares_proxies:
            try:
                address = endpoint.verifier.sender_address(delivery)
            except UnverifiedError:
                # The header of the proxies is incomplete: only the address of the connection is known.
                address = delivery.address
        return self.rate_key(address)

    def _identity(self, delivery: Delivery, error: LoopledgerError) -> bytes:
        if not delivery.verified:
            # What a stranger says of itself counts for nothing; what is wrong with it, and whence it came, does.
            problem = str(error) if isinstance(error, UnverifiedError) else ""
            sender = self._sender(self._endpoints.get(delivery.provider), delivery)
            return f"{sender}\0{problem}".encode("utf-8", "surrogatepass")
        if isinstance(error, TooManyError):
            return b""
        named = self._endpoints[delivery.provider].provider.identity_headers
        return printable("\0".join(delivery.headers.get(header, "") for header in named)).encode()

    def _note(self, delivery: Delivery, error: LoopledgerError) -> None:
        problem_type = problem_type_of(error)
        headers = self._headers
        body = delivery.body
        if not delivery.verified or isinstance(error, TooManyError) or self._redactor.finds(body):
            # Who sends too much is one rejection, whatever the bodies: else a flood would push all others out.
            body = b""
        self._rejections.note(
            NewRejection(
                provider=delivery.provider,
                cause=problem_type.cause if problem_type else "UNKNOWN",
                problem=self._redactor.text(str(error)),
                address=self._redactor.text(delivery.address),
                identity=self._identity(delivery, error),
                headers=(headers.lines if delivery.verified else headers.stranger_lines)(delivery),
                body=body,
                # Where the body was not read, what the head says of it.
                size=len(delivery.body) or _announced(delivery),
                at=datetime.now(UTC),
                verified=delivery.verified,
            )
        )


def _announced(delivery: Delivery) -> int:
    """How large the head says that the body is; 0 if it does not."""
    text = delivery.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= LONGEST_LENGTH else 0


def _header_filter(
    endpoints: Iterable[Endpoint], keep: Iterable[str], redactor: Redactor
) -> HeaderFilter:
    """Keep what any provider is recognised, or any signature checked, by, and what the settings name."""
    kept = set(keep)
    credentials: set[bytes] = set()
    for endpoint in endpoints:
        kept |= {*endpoint.provider.identity_headers, *endpoint.provider.kept_headers}
        kept |= endpoint.verifier.signature_headers
        credentials |= endpoint.verifier.credential_headers
    return HeaderFilter(kept, credentials, redactor)


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
