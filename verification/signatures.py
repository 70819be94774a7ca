"""Signatures over the raw bytes of a delivery: HMAC as providers arrange it, and Standard Webhooks.

Sources: RFC 2104 (HMAC), the Standard Webhooks specification 1.0.0, docs.stripe.com/webhooks (`t=...,v1=...`).
"""

import binascii
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from multidict import istr

from verification.credentials import check_header_name, malformed, single
from verification.keyring import (
    Keyring,
    MalformedSecretError,
    Reader,
    Redacted,
    Secrets,
    UnverifiedError,
    long_enough,
    refuse,
)

# Signatures in one header. Public keys take a hundred times as long as secrets: a stranger may not ask for many.
MOST_SIGNATURES = 20
MOST_PUBLIC_KEY_SIGNATURES = 4

# As many bytes as it takes as long to hash as to check so many.
PUBLIC_KEY_BYTES = 256 * 1024

WEBHOOK_ID = istr("webhook-id")
WEBHOOK_TIMESTAMP = istr("webhook-timestamp")
WEBHOOK_SIGNATURE = istr("webhook-signature")

_PLACEHOLDER = re.compile(r"(\{[a-z]+\})")
_PLACEHOLDERS = frozenset({"{body}", "{timestamp}", "{id}", "{url}"})
# Without zeros before it, and near our clock, it has one width (ten digits until 2286): it runs into nothing.
_TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")
_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,200}")

_SIZES = {"sha256": 32, "sha512": 64}
_SIGNATURE_BYTES = 64  # of Ed25519


# Seconds that a signed timestamp may lie before or after our clock.
Tolerance = Annotated[int, msgspec.Meta(ge=1, le=86_400)]


class Hmac(Redacted, frozen=True, kw_only=True):
    """An HMAC over the body, and what else the provider signs.

    `template` is what is signed, made of `{body}` (always), `{timestamp}`, `{id}`, `{url}`, and any text between them;
    when not set, "{body}", or "{timestamp}.{body}" in Stripe's form. `header` holds `prefix` and the signature in
    `encoding` (hex in either case), or in `form` "stripe" `t=<timestamp>,v1=<signature>`, v1 perhaps several times.
    Towards `{body}`, text comes next to `{id}`: its character there is in no id, so that the two cannot run into one
    another. What stands for `{timestamp}` (whole seconds since 1970) has ten digits; `{url}` is always the same.
    `timestamp_header` and `id_header` hold what stands for `{timestamp}` and `{id}`; `url` is the public URL as the
    provider knows it. `tolerance_seconds` counts where a timestamp is signed. The value of a secret is written in
    `secret_encoding`.
    """

    header: str
    secrets: Secrets
    algorithm: Literal["sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    form: Literal["plain", "stripe"] = "plain"
    prefix: str = ""
    template: str | None = None
    timestamp_header: str | None = None
    id_header: str | None = None
    url: str | None = None
    tolerance_seconds: Tolerance = 300
    secret_encoding: Literal["text", "hex", "base64"] = "text"  # noqa: S105 - it is no secret

    def __post_init__(self) -> None:
        for name in (self.header, self.timestamp_header, self.id_header):
            if name is not None:
                check_header_name(name)
        pieces = _PLACEHOLDER.split(self.signed)
        placeholders = pieces[1::2]
        if not _PLACEHOLDERS.issuperset(placeholders) or re.search(r"[{}]", "".join(pieces[::2])):
            refuse("`template` knows {body}, {timestamp}, {id} and {url}, and no other braces")
        if len(set(placeholders)) < len(placeholders) or "{body}" not in placeholders:
            refuse("`template` must hold {body}, and nothing twice")
        if "{id}" in placeholders and not _divider(pieces):
            refuse(
                "`template` must have text between {id} and what comes next towards {body}, such as a full stop"
            )
        stripe = self.form == "stripe"
        if stripe and (self.prefix or self.timestamp_header):
            refuse('`form` "stripe" has neither `prefix` nor `timestamp_header`')
        # A timestamp or an id that is sent but not signed would protect nothing.
        for placeholder, setting, given in (
            (
                "{timestamp}",
                "form" if stripe else "timestamp_header",
                stripe or self.timestamp_header,
            ),
            ("{id}", "id_header", self.id_header),
            ("{url}", "url", self.url),
        ):
            if (placeholder in placeholders) != bool(given):
                refuse(f"{placeholder} in `template` and `{setting}` need each other")
        if not (self.prefix.isascii() and self.prefix.isprintable()):
            refuse("`prefix` must be printable ASCII")

    @property
    def signed(self) -> str:
        """The template, or the usual one of the form."""
        if self.template is not None:
            return self.template
        return "{timestamp}.{body}" if self.form == "stripe" else "{body}"


class StandardWebhooks(Redacted, frozen=True, kw_only=True):
    """Standard Webhooks 1.0.0: `webhook-id`, `webhook-timestamp`, `webhook-signature`.

    A secret is `whsec_<base64>` or the base64 alone (HMAC-SHA256, `v1`), or `whpk_<base64>` (Ed25519, `v1a`). One
    signature by one of the secrets is enough.
    """

    secrets: Secrets
    tolerance_seconds: Tolerance = 300


K = TypeVar("K")

# What the headers say of a signature, well-formed and in time: the signatures, ready to be compared, the id, the
# timestamp; and the keys that were valid then, one of which must have signed.
Claim: TypeAlias = tuple[list[bytes], str, str, list[K]]


class HmacKey:
    """An HMAC key, with what does not depend on a message computed once (RFC 2104, 4).

    The hmac module would compute it too, but copying its objects takes twice as long as signing a message.
    """

    def __init__(self, value: bytes, algorithm: Literal["sha256", "sha512"]) -> None:
        block_size = hashlib.new(algorithm).block_size
        if len(value) > block_size:
            value = hashlib.new(algorithm, value).digest()
        padded = value.ljust(block_size, b"\0")
        self._inner = hashlib.new(algorithm, bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.new(algorithm, bytes(byte ^ 0x5C for byte in padded))

    def digest(self, message: bytes) -> bytes:
        """The HMAC of a message."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


StandardKey: TypeAlias = HmacKey | Ed25519PublicKey


class SignatureCheck(ABC, Generic[K]):
    """Checks a signature in two steps: what the head says of it, then the signature over the body.

    `overhead_bytes`: as many as it takes as long to hash as everything besides the body takes.
    """

    overhead_bytes = 1024

    @abstractmethod
    def check_head(self, headers: Mapping[str, str], moment: float) -> Claim[K]:
        """Read what the headers say, for `check_body`.

        Raises UnverifiedError unless a signature is there, well-formed, and its timestamp in time.
        """

    @abstractmethod
    def check_body(self, claim: Claim[K], body: bytes) -> None:
        """Raise UnverifiedError unless one of the keys in the claim has signed the delivery."""


class HmacCheck(SignatureCheck[HmacKey]):
    """Checks, and makes, the signatures of one `Hmac`."""

    def __init__(self, settings: Hmac, read: Reader, key: str) -> None:
        # Folded to one case here, not each time it is looked up.
        self._header = istr(settings.header)
        self._prefix = settings.prefix
        self._stripe = settings.form == "stripe"
        self._timestamp_header = settings.timestamp_header
        self._id_header = settings.id_header
        self._tolerance = settings.tolerance_seconds
        self._algorithm = settings.algorithm
        self._hex = settings.encoding == "hex"
        self._secret_encoding = settings.secret_encoding
        self._size = _SIZES[settings.algorithm]
        self._well_formed = _base64_pattern(self._size).fullmatch
        pieces = _PLACEHOLDER.split(settings.signed)
        self._divider = _divider(pieces)
        self._format = "".join(
            f"%({piece[1:-1]})b" if _PLACEHOLDER.fullmatch(piece) else piece.replace("%", "%%")
            for piece in pieces
        ).encode()
        self._url = (settings.url or "").encode()
        self._whole = self._format == b"%(body)b"
        self.keys = Keyring(
            [
                (f"{key}.secrets[{number}]", secret, self._key)
                for number, secret in enumerate(settings.secrets)
            ],
            read,
            "signature secret",
        )

    def check_head(self, headers: Mapping[str, str], moment: float) -> Claim[HmacKey]:
        """Read the claim; see `SignatureCheck.check_head`."""
        value = single(headers, self._header)
        timestamp = message_id = ""
        if self._stripe:
            timestamp, signatures = _stripe_items(value, self._header)
            _check_timestamp(timestamp, self._header, moment, self._tolerance)
        else:
            if not value.startswith(self._prefix):
                malformed(self._header)
            signatures = [value[len(self._prefix) :]]
            if self._timestamp_header:
                timestamp = single(headers, self._timestamp_header)
                _check_timestamp(timestamp, self._timestamp_header, moment, self._tolerance)
        if self._id_header:
            message_id = _message_id(headers, self._id_header, self._divider)
        # One that is malformed, of another scheme perhaps, does not spoil the others.
        given = [one for one in map(self._given, signatures) if one is not None]
        if not given:
            malformed(self._header)
        return given, message_id, timestamp, self.keys.valid_at(moment)

    def check_body(self, claim: Claim[HmacKey], body: bytes) -> None:
        """Check the signature; see `SignatureCheck.check_body`."""
        signatures, message_id, timestamp, keys = claim
        message = body if self._whole else self.message(message_id, timestamp, body)
        matches = 0
        for key in keys:
            expected = key.digest(message) if self._hex else self.signature(key, message)
            for given in signatures:
                matches += hmac.compare_digest(expected, given)
        if not matches:
            raise UnverifiedError(problem=f"the signature in {self._header} is wrong")

    def message(self, message_id: str, timestamp: str, body: bytes) -> bytes:
        """The bytes that are signed."""
        return self._format % {
            b"id": message_id.encode(),
            b"timestamp": timestamp.encode(),
            b"url": self._url,
            b"body": body,
        }

    def signature(self, key: HmacKey, message: bytes) -> bytes:
        """Sign a message, in the encoding of the settings."""
        digest = key.digest(message)
        return binascii.hexlify(digest) if self._hex else binascii.b2a_base64(digest, newline=False)

    def _given(self, text: str) -> bytes | None:
        """A signature as it is compared: what hex digits stand for, the very text of base64; None if malformed."""
        if not self._hex:
            return text.encode() if self._well_formed(text) else None
        try:
            given = binascii.unhexlify(text)
        except ValueError:
            return None
        return given if len(given) == self._size else None

    def _key(self, value: bytes) -> HmacKey:
        encoding = self._secret_encoding
        raw = value if encoding == "text" else _decoded(value, encoding)
        return HmacKey(long_enough(raw), self._algorithm)


class StandardCheck(SignatureCheck[StandardKey]):
    """Checks, and makes, the signatures of Standard Webhooks."""

    def __init__(self, settings: StandardWebhooks, read: Reader, key: str) -> None:
        self._tolerance = settings.tolerance_seconds
        self._well_formed = {
            "v1": _base64_pattern(_SIZES["sha256"]),
            "v1a": _base64_pattern(_SIGNATURE_BYTES),
        }
        self.keys: Keyring[StandardKey] = Keyring(
            [
                (f"{key}.secrets[{number}]", secret, _standard_key)
                for number, secret in enumerate(settings.secrets)
            ],
            read,
            "signature secret",
        )
        if any(isinstance(key, Ed25519PublicKey) for key in self.keys):
            self.overhead_bytes = PUBLIC_KEY_BYTES

    def check_head(self, headers: Mapping[str, str], moment: float) -> Claim[StandardKey]:
        """Read the claim; see `SignatureCheck.check_head`."""
        message_id = _message_id(headers, WEBHOOK_ID, ".")
        timestamp = single(headers, WEBHOOK_TIMESTAMP)
        _check_timestamp(timestamp, WEBHOOK_TIMESTAMP, moment, self._tolerance)
        value = single(headers, WEBHOOK_SIGNATURE)
        signatures = value.split(" ", MOST_SIGNATURES)
        if len(signatures) > MOST_SIGNATURES or value.count("v1a,") > MOST_PUBLIC_KEY_SIGNATURES:
            raise UnverifiedError(problem=f"{WEBHOOK_SIGNATURE} holds too many signatures")
        keys = self.keys.valid_at(moment)
        versions = {"v1" if isinstance(key, HmacKey) else "v1a" for key in keys}
        named = [one for one in signatures if one.partition(",")[0] in versions]
        if not named:
            wanted = " or ".join(sorted(versions))
            raise UnverifiedError(problem=f"{WEBHOOK_SIGNATURE} holds no signature {wanted}")
        # One that is malformed does not spoil the others, nor do those of other versions, as the specification has it.
        usable = [one.encode() for one in named if self._is_well_formed(*one.split(",", 1))]
        if not usable:
            malformed(WEBHOOK_SIGNATURE)
        return usable, message_id, timestamp, keys

    def _is_well_formed(self, version: str, text: str = "") -> bool:
        return self._well_formed[version].fullmatch(text) is not None

    def check_body(self, claim: Claim[StandardKey], body: bytes) -> None:
        """Check the signature; see `SignatureCheck.check_body`."""
        signatures, message_id, timestamp, keys = claim
        message = self.message(message_id, timestamp, body)
        matches = 0
        for key in keys:
            if isinstance(key, HmacKey):
                expected = self.signature(key, message)
                for signature in signatures:
                    matches += hmac.compare_digest(expected, signature)
            else:
                matches += any(_is_signed(key, signature, message) for signature in signatures)
        if not matches:
            raise UnverifiedError(problem=f"no signature in {WEBHOOK_SIGNATURE} is right")

    def message(self, message_id: str, timestamp: str, body: bytes) -> bytes:
        """The bytes that are signed."""
        return b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), body)

    def signature(self, key: HmacKey, message: bytes) -> bytes:
        """Sign a message: `v1,<base64>`."""
        return b"v1," + binascii.b2a_base64(key.digest(message), newline=False)


def _stripe_items(value: str, name: str) -> tuple[str, list[str]]:
    """The timestamp and the signatures of `t=...,v1=...,v1=...`; items of other names are ignored."""
    items = [item.partition("=") for item in value.split(",", MOST_SIGNATURES)]
    timestamps = [text for key, _, text in items if key == "t"]
    signatures = [text for key, _, text in items if key == "v1"]
    if len(items) > MOST_SIGNATURES or len(timestamps) != 1 or not signatures:
        malformed(name)
    return timestamps[0], signatures


def _check_timestamp(text: str, name: str, moment: float, tolerance: int) -> None:
    if not _TIMESTAMP.fullmatch(text):
        raise UnverifiedError(problem=f"the timestamp in {name} is not a number of whole seconds")
    if abs(moment - int(text)) > tolerance:
        raise UnverifiedError(
            problem=f"the timestamp in {name} is more than {tolerance} s off our clock"
        )


def _divider(pieces: Sequence[str]) -> str:
    """The character between {id} and what comes next towards {body}; "" if there is none."""
    if "{id}" not in pieces:
        return ""
    at = pieces.index("{id}")
    return pieces[at + 1][:1] if at < pieces.index("{body}") else pieces[at - 1][-1:]


def _message_id(headers: Mapping[str, str], name: str, divider: str) -> str:
    message_id = single(headers, name)
    if not _MESSAGE_ID.fullmatch(message_id) or divider in message_id:
        malformed(name)
    return message_id


def _is_signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    version, _, text = signature.partition(b",")
    if version != b"v1a":
        return False
    try:
        decoded = binascii.a2b_base64(text)
        key.verify(decoded, message)
    except (binascii.Error, InvalidSignature):
        return False
    # Else spare bits of base64 would give one signature several texts.
    return binascii.b2a_base64(decoded, newline=False) == text


def _standard_key(value: bytes) -> StandardKey:
    if value.startswith(b"whsk_"):
        message = "is the sender's private key (whsk_); set its public key (whpk_) instead"
        raise MalformedSecretError(message)
    if value.startswith(b"whpk_"):
        public = _decoded(value.removeprefix(b"whpk_"), "base64")
        if len(public) != 32:  # noqa: PLR2004 - the size of every key of Ed25519 (RFC 8032)
            message = "is not an Ed25519 public key, which has 32 bytes"
            raise MalformedSecretError(message)
        return Ed25519PublicKey.from_public_bytes(public)
    return HmacKey(long_enough(_decoded(value.removeprefix(b"whsec_"), "base64")), "sha256")


def _decoded(value: bytes, encoding: Literal["hex", "base64"]) -> bytes:
    decoded = b""
    try:
        if encoding == "hex":
            decoded = binascii.unhexlify(value)
        else:
            # Some providers give base64 without its padding.
            padded = value + b"=" * (-len(value) % 4)
            decoded = binascii.a2b_base64(padded, strict_mode=True)
    except binascii.Error:
        pass
    if not decoded:
        message = f"is not {encoding}"
        raise MalformedSecretError(message)
    return decoded


def _base64_pattern(size: int) -> re.Pattern[str]:
    """A pattern of `size` bytes in base64."""
    return re.compile(rf"[A-Za-z0-9+/]{{{-(-8 * size // 6)}}}{'=' * (-size % 3)}")
