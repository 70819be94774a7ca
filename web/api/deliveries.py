"""What providers send. Nobody needs a key for that; verification is per provider: `docs/verification.md`.

| provider | topic and tenant |
| --- | --- |
| `loopz` | the headers `X-LOOPZ-WEBHOOK-TOPIC` and `X-LOOPZ-MERCHANT-ID` (and, if given, `X-LOOPZ-PROGRAM-ID`) |
| `fitbank` | the fields `Method` and `BusinessUnitId` |

`200 {"position": n}`: the delivery is on record at position n, committed. Anything else acknowledges nothing.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from eventstore.errors import (
    NotFoundError,
    QueueFullError,
    RefusedError,
    UnavailableError,
)
from providers import load_providers
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


class DeliveryBody(msgspec.Struct, frozen=True):
    """A JSON object as the provider sends it, whatever its members are: it is kept byte by byte."""


def _delivery(name: str, path: str, parameters: type[msgspec.Struct], description: str) -> Route:
    return Route(
        method="POST",
        path=path,
        handler=None,
        name=name,
        description=description,
        path_parameters=parameters,
        body=DeliveryBody,
        request_examples={
            name: msgspec.json.decode(provider.example.body)
            for name, provider in load_providers({}).items()
        },
        answer=Acknowledgement,
        errors=ERRORS,
        scope="deliver",
    )


ROUTES = [
    _delivery("receive_delivery", "/webhooks/{provider}", ProviderPath, "Take one delivery."),
    _delivery(
        "receive_delivery_by_secret",
        "/webhooks/{provider}/{secret}",
        SecretPath,
        "Take one delivery, where a secret in the path verifies it.",
    ),
]
