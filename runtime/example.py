"""An example delivery that passes the settings in force: for `loopledger sign` and for what a start proposes."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
from multidict import CIMultiDict

from providers import load_providers
from providers.provider import Recognised
from runtime.secrets import read_secret
from runtime.settings import Settings
from verification.delivery import Delivery
from verification.signing import sign
from verification.verifier import Verification, Verifier


class SignedDelivery(msgspec.Struct, frozen=True):
    """A delivery that is ready to be sent. `path` and `headers` hold its credentials."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    recognised: Recognised

    def __repr__(self) -> str:
        return "SignedDelivery(...)"


def verification_of(settings: Settings, provider: str) -> Verification:
    """How the deliveries of a provider are verified."""
    section = settings.providers.get(provider)
    return getattr(section, "verification", None) or Verification()


def sign_example(settings: Settings, name: str, body: bytes | None = None) -> SignedDelivery:
    """Sign a provider's example, or another body, for a tenant whose deliveries are taken.

    Raises SettingsError, UnsignableError, UnidentifiedError, UnparsableError.
    """
    provider = load_providers(settings.providers)[name]
    verification = verification_of(settings, name)
    headers = dict(provider.example.headers)
    given = provider.example.body if body is None else body
    recognised = provider.recognise(CIMultiDict(headers), given)
    swaps = _other_tenant(verification, recognised)
    headers = {header: swaps.get(value, value) for header, value in headers.items()}
    if swaps and body is None:
        facts = msgspec.json.decode(given, type=dict[str, object])
        swapped = {key: swaps.get(str(value), value) for key, value in facts.items()}
        given = msgspec.json.encode(swapped)
    recognised = provider.recognise(CIMultiDict(headers), given)
    path, signed = sign(
        verification, read_secret, name, given, datetime.now(UTC), f"msg_{uuid4().hex}"
    )
    headers = {"Content-Type": "application/json", **headers, **signed}
    return SignedDelivery(path, headers, given, recognised)


def check_example(settings: Settings, name: str, signed: SignedDelivery) -> None:
    """Check that it would be taken if it were sent from this machine. Raises UnverifiedError."""
    verifier = Verifier(verification_of(settings, name), read_secret, f"{name}.verification")
    head, _, secret = signed.path.removeprefix("/webhooks/").partition("/")
    delivery = Delivery(
        head, secret or None, "127.0.0.1", CIMultiDict(signed.headers), (), datetime.now(UTC)
    )
    claims = verifier.check_head(delivery)
    delivery.body = signed.body
    verifier.check_body(delivery, claims)
    one = signed.recognised
    verifier.check_tenant(one.merchant_id, one.program_id, one.subscription_id)


def _other_tenant(verification: Verification, recognised: Recognised) -> dict[str, str]:
    """The ids of the example that have to be others for it to be taken, and the first that is taken."""
    pairs = (
        (recognised.merchant_id, verification.merchant_ids),
        (recognised.program_id, verification.program_ids),
        (recognised.subscription_id, verification.subscription_ids),
    )
    return {
        own: str(allowed[0])
        for own, allowed in pairs
        if own is not None and allowed is not None and own not in map(str, allowed)
    }
