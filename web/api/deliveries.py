"""The routes of deliveries, as a description: web.ingest receives deliveries before any handler."""

from typing import Annotated

import msgspec
from msgspec import Meta

from eventstore.errors import (
    NotFoundError,
    QueueFullError,
    RefusedError,
    UnavailableError,
)
from providers.provider import UnidentifiedError, UnparsableError
from verification.keyring import UnverifiedError
from web.errors import (
    CrowdedError,
    CutShortError,
    EncodedError,
    ExpectationError,
    ForeignError,
    HeadTooLargeError,
    HeadTooSlowError,
    MalformedError,
    TooLargeError,
    TooManyConnectionsError,
    TooManyError,
    TooManyFromAddressError,
    TooSlowError,
)
from web.route import Route

ERRORS = (
    CrowdedError,
    CutShortError,
    EncodedError,
    ExpectationError,
    ForeignError,
    HeadTooLargeError,
    HeadTooSlowError,
    MalformedError,
    NotFoundError,
    QueueFullError,
    RefusedError,
    TooLargeError,
    TooManyConnectionsError,
    TooManyError,
    TooManyFromAddressError,
    TooSlowError,
    UnavailableError,
    UnidentifiedError,
    UnparsableError,
    UnverifiedError,
)


class Acknowledgement(msgspec.Struct, frozen=True):
    """The delivery is on record, committed."""

    position: Annotated[int, Meta(description="Its position in the log.")]


class ProviderPath(msgspec.Struct, frozen=True):
    """Whose delivery it is."""

    provider: Annotated[str, Meta(description="Its name, such as `loopz`.")]


class SecretPath(ProviderPath, frozen=True):
    """Whose delivery it is, and the secret that verifies it."""

    secret: Annotated[str, Meta(description="As in the settings of the provider.")]


def _delivery(path: str, parameters: type[msgspec.Struct]) -> Route:
    return Route(
        method="POST",
        path=path,
        handler=None,
        path_parameters=parameters,
        answer=Acknowledgement,
        errors=ERRORS,
        scope="deliver",
    )


ROUTES = [
    _delivery("/webhooks/{provider}", ProviderPath),
    _delivery("/webhooks/{provider}/{secret}", SecretPath),
]
