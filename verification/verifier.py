"""Verification: whether a delivery is from whom it claims to be.

Neither Loopz nor FitBank documents any way to tell, so every usual way is offered, in any combination. Whatever is
configured must hold: docs/verification.md.
"""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Any, TypeAlias

import msgspec

from verification.credentials import (
    AUTHORIZATION,
    BasicCheck,
    BasicUser,
    PathCheck,
    TokenCheck,
    Tokens,
)
from verification.delivery import Delivery
from verification.keyring import (
    Redacted,
    Secret,
    Secrets,
    UnverifiedError,
    refuse,
)
from verification.signatures import (
    WEBHOOK_SIGNATURE,
    Claim,
    Hmac,
    HmacCheck,
    SignatureCheck,
    StandardCheck,
    StandardWebhooks,
)

__all__ = [
    "BasicUser",
    "Hmac",
    "Secret",
    "StandardWebhooks",
    "Tokens",
    "UnverifiedError",
    "Verification",
    "Verifier",
]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

FORWARDED_FOR = "X-Forwarded-For"

# The first prefix length at which an IPv6 network is wholly made of IPv4-mapped addresses (RFC 4291, 2.5.5.2).
MAPPED_PREFIX = 96

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?|([^:]*):[0-9]{1,5}")


Names = Annotated[tuple[str | int, ...], msgspec.Meta(min_length=1)]


class Verification(Redacted, frozen=True, kw_only=True):
    """How the deliveries of one provider are verified. All that is set must hold; nothing set, nothing is checked.

    `path`: a secret at the end of the path, /webhooks/<provider>/<secret>. `basic`, `tokens`, `hmac` and
    `standard_webhooks`: one of the secrets valid now must match. `addresses`: the networks (CIDR) that deliveries may
    come from; behind `trusted_proxies` proxies the address is the one that the outermost of these has seen, counted
    from the right of X-Forwarded-For. `merchant_ids` (for FitBank: business units), `program_ids` and
    `subscription_ids` (Loopz only): whose deliveries are accepted.
    """

    path: Secrets | None = None
    basic: Annotated[tuple[BasicUser, ...], msgspec.Meta(min_length=1)] | None = None
    tokens: Tokens | None = None
    hmac: Hmac | None = None
    standard_webhooks: StandardWebhooks | None = None
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    trusted_proxies: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    merchant_ids: Names | None = None
    program_ids: Names | None = None
    subscription_ids: Names | None = None

    def __post_init__(self) -> None:
        for text in self.addresses or ():
            _network(text)
        used: dict[str, str] = {}
        for method, header in (
            ("basic", self.basic and AUTHORIZATION),
            ("tokens", self.tokens and self.tokens.header),
            ("hmac", self.hmac and self.hmac.header),
            ("standard_webhooks", self.standard_webhooks and WEBHOOK_SIGNATURE),
        ):
            if header and (other := used.setdefault(header.lower(), method)) != method:
                refuse(f"`{other}` and `{method}` cannot both be in the header {header}")

    @property
    def configured(self) -> bool:
        """Whether a stranger is kept out: an allow-list alone does not do that."""
        return bool(self.methods)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that need a secret, as far as they are set."""
        names = ("path", "basic", "tokens", "hmac", "standard_webhooks")
        return tuple(name for name in names if getattr(self, name) is not None)


# What the head of a delivery says of each signature that is checked.
Claims: TypeAlias = Sequence[Claim[Any]]


class Verifier:
    """Checks deliveries: the head before the body is read, then the body, then the tenant.

    `secrets` reads a secret; each is read once, here. Raises SettingsError, which names the secret that is empty or
    malformed, below `key`. The time is the `received_at` of the delivery.
    """

    def __init__(
        self,
        verification: Verification,
        secrets: Callable[[Secret], bytes],
        key: str = "verification",
    ) -> None:
        self._methods = verification.methods
        # Whether a stranger is kept out; as `Verification.configured`.
        self.configured = verification.configured
        self._networks = [_network(text) for text in verification.addresses or ()]
        self._proxies = verification.trusted_proxies
        # Whether the settings say that deliveries come through proxies.
        self.declares_proxies = self._proxies > 0
        self._tenants = [
            (what, setting, None if allowed is None else frozenset(map(str, allowed)))
            for what, setting, allowed in (
                ("merchant", "merchant_ids", verification.merchant_ids),
                ("program", "program_ids", verification.program_ids),
                ("subscription", "subscription_ids", verification.subscription_ids),
            )
        ]
        self._any_tenant = all(allowed is None for _, _, allowed in self._tenants)

        # The secrets themselves: no part of what goes on record may be one.
        self.secrets: set[bytes] = set()

        def read(secret: Secret) -> bytes:
            value = secrets(secret)
            self.secrets.add(value.removesuffix(b"\n").removesuffix(b"\r"))
            return value

        credentials: list[Callable[[Delivery, float], None]] = []
        self.credential_headers: frozenset[bytes] = frozenset()
        if verification.addresses is not None:
            credentials.append(self._check_address)
        if verification.path is not None:
            credentials.append(PathCheck(verification.path, read, f"{key}.path").check)
        if verification.basic is not None:
            credentials.append(BasicCheck(verification.basic, read, f"{key}.basic").check)
            self.credential_headers |= {AUTHORIZATION.lower().encode()}
        if (tokens := verification.tokens) is not None:
            credentials.append(TokenCheck(tokens, read, f"{key}.tokens").check)
            self.credential_headers |= {tokens.header.lower().encode()}
        self._credentials = tuple(credentials)

        # Evidence that goes on record: the headers of signatures, and what is signed besides the body.
        self.signature_headers: frozenset[str] = frozenset()
        signatures: list[SignatureCheck[Any]] = []
        if verification.hmac is not None:
            named = verification.hmac
            names = (named.header, named.timestamp_header, named.id_header)
            self.signature_headers |= {name for name in names if name}
            signatures.append(HmacCheck(verification.hmac, read, f"{key}.hmac"))
        if (standard := verification.standard_webhooks) is not None:
            signatures.append(StandardCheck(standard, read, f"{key}.standard_webhooks"))
        self._signatures = tuple(signatures)
        # Whether it takes the body to tell who sent it.
        self.signs = bool(signatures)
        # It takes whatever comes: who sends that is unknown.
        self.checks_nothing = not credentials and not signatures
        # As many bytes as it takes as long to hash as everything besides the body takes.
        self.signature_bytes = max((each.overhead_bytes for each in signatures), default=0)

    def __repr__(self) -> str:
        return f"Verifier({', '.join(self._methods)})"

    @property
    def needs_credentials(self) -> bool:
        """Whether something must hold that is not kept with a delivery: a credential, or the address it came from."""
        return bool(self._credentials)

    def trusts_address(self, address: str) -> bool:
        """Whether connections from an address are a provider's, by `addresses`, or may be those of a proxy."""
        if self._proxies:
            return True
        found = address_of(address)
        return found is not None and any(found in network for network in self._networks)

    @property
    def signatures_only(self) -> "Verifier":
        """A verifier of the same signatures and of nothing else."""
        other = copy.copy(self)
        other._only_signatures()  # noqa: SLF001 - its own
        return other

    def _only_signatures(self) -> None:
        self._credentials = ()
        self.checks_nothing = not self._signatures

    def check_head(self, delivery: Delivery) -> Claims:
        """Check all that needs no body, so that a stranger's is never read. Raises UnverifiedError.

        Of a signature: that it is there, well-formed, and its timestamp within the tolerance of `received_at`. Gives
        back what the head says of the signatures, for `check_body`.
        """
        if self.checks_nothing:
            return ()
        moment = delivery.received_at.timestamp()
        for check in self._credentials:
            check(delivery, moment)
        return [each.check_head(delivery.headers, moment) for each in self._signatures]

    def check_body(self, delivery: Delivery, claims: Claims) -> None:
        """Check the signatures over the exact bytes of the body. Raises UnverifiedError.

        `claims` are what `check_head` gave back: with the keys that were valid then, a body that takes its time does
        not outlive its timestamp.
        """
        if self._signatures:
            for signature, claim in zip(self._signatures, claims, strict=True):
                signature.check_body(claim, delivery.body)

    def check_tenant(
        self, merchant_id: str, program_id: str | None, subscription_id: str | None
    ) -> None:
        """Check whose delivery it is, once it is recognised. Raises UnverifiedError."""
        if self._any_tenant:
            return
        given = (merchant_id, program_id, subscription_id)
        for (what, setting, allowed), id_ in zip(self._tenants, given, strict=True):
            if allowed is not None and id_ not in allowed:
                raise UnverifiedError(
                    problem=f"its {what} id is not one of `{setting}` in the settings"
                )

    def _check_address(self, delivery: Delivery, _: float) -> None:
        address = address_of(self.sender_address(delivery))
        if address is None:
            raise UnverifiedError(problem="the sender's address is unknown")
        if not any(address in network for network in self._networks):
            raise UnverifiedError(
                problem="the sender's address is not in `addresses` in the settings"
            )

    def sender_address(self, delivery: Delivery) -> str:
        """The address that a delivery comes from, as far as it can be trusted. Raises UnverifiedError."""
        if not self._proxies:
            return delivery.address
        # Each proxy appends whom it has seen, to the last such header or as one more; the left is what anybody says.
        getall = getattr(delivery.headers, "getall", None)
        lines: Iterable[str] = (
            getall(FORWARDED_FOR, ())
            if getall is not None
            else [delivery.headers.get(FORWARDED_FOR, "")]
        )
        seen = ",".join(lines).rsplit(",", self._proxies)
        if len(seen) < self._proxies:
            raise UnverifiedError(
                problem=f"{FORWARDED_FOR} names fewer addresses than there are trusted proxies"
            )
        return seen[-self._proxies]


def _network(text: str) -> Network:
    """Read a network in CIDR. Raises ValueError."""
    try:
        network = ip_network(text)
    except ValueError:
        refuse("`addresses` must hold networks, such as 192.0.2.0/24 or 2001:db8::/32")
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_PREFIX:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - MAPPED_PREFIX))
    return network


def address_of(text: str) -> Address | None:
    """Read an address, perhaps with a port; an IPv4-mapped one is the IPv4 address that it stands for."""
    text = text.strip(" \t")
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
