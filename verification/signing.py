"""Signing: deliveries that pass verification, for `loopledger sign` and for tests."""

import binascii
from collections.abc import Callable, Iterable
from datetime import datetime

from eventstore.errors import LoopledgerError
from verification.credentials import AUTHORIZATION, pair_of, path_secret, token
from verification.keyring import Keyring, Reader, Secret, UnverifiedError
from verification.signatures import (
    WEBHOOK_ID,
    WEBHOOK_SIGNATURE,
    WEBHOOK_TIMESTAMP,
    Hmac,
    HmacCheck,
    HmacKey,
    StandardCheck,
    StandardWebhooks,
)
from verification.verifier import Verification


class UnsignableError(LoopledgerError):
    """No delivery can be signed: {problem}."""


def sign(
    verification: Verification,
    secrets: Reader,
    provider: str,
    body: bytes,
    now: datetime,
    message_id: str,
) -> tuple[str, dict[str, str]]:
    """The path and the headers with which `body` passes every method that is configured.

    Of several secrets the first valid one is used. `now` is aware; `message_id` is visible ASCII without a full stop.
    Address and tenant are not part of it. Raises UnsignableError, and SettingsError as the Verifier does.
    """
    try:
        signer = _Signer(secrets, provider, body, now.timestamp(), message_id)
        return signer.path(verification), signer.headers(verification)
    except UnverifiedError as error:
        problem = error.facts["problem"]
    raise UnsignableError(problem=problem)


class _Signer:
    def __init__(
        self, read: Reader, provider: str, body: bytes, moment: float, message_id: str
    ) -> None:
        self._read = read
        self._provider = provider
        self._key = f"{provider}.verification"
        self._body = body
        self._moment = moment
        self._message_id = message_id

    def path(self, verification: Verification) -> str:
        path = f"/webhooks/{self._provider}"
        if verification.path is None:
            return path
        entries = [(f"{self._key}.path", secret, path_secret) for secret in verification.path]
        return f"{path}/{self._first(entries, 'path secret')}"

    def headers(self, verification: Verification) -> dict[str, str]:
        headers = {}
        if (users := verification.basic) is not None:
            key = f"{self._key}.basic"
            entries = [(key, user.password, _credentials_of(user.user)) for user in users]
            headers[AUTHORIZATION] = f"Basic {self._first(entries, 'password')}"
        if (tokens := verification.tokens) is not None:
            key = f"{self._key}.tokens"
            entries = [(key, secret, token) for secret in tokens.secrets]
            headers[tokens.header] = f"{tokens.prefix}{self._first(entries, 'token')}"
        if verification.hmac is not None:
            headers |= self._hmac(verification.hmac)
        if verification.standard_webhooks is not None:
            headers |= self._standard(verification.standard_webhooks)
        return headers

    def _hmac(self, settings: Hmac) -> dict[str, str]:
        check = HmacCheck(settings, self._read, f"{self._key}.hmac")
        timestamp = str(int(self._moment))
        message = check.message(self._message_id, timestamp, self._body)
        signature = check.signature(check.keys.valid_at(self._moment)[0], message).decode()
        if settings.form == "stripe":
            headers = {settings.header: f"t={timestamp},v1={signature}"}
        else:
            headers = {settings.header: f"{settings.prefix}{signature}"}
        if settings.timestamp_header:
            headers[settings.timestamp_header] = timestamp
        if settings.id_header:
            headers[settings.id_header] = self._message_id
        return headers

    def _standard(self, settings: StandardWebhooks) -> dict[str, str]:
        check = StandardCheck(settings, self._read, f"{self._key}.standard_webhooks")
        keys = [key for key in check.keys.valid_at(self._moment) if isinstance(key, HmacKey)]
        if not keys:
            raise UnsignableError(
                problem="only public keys (whpk_) are valid now, and these only verify; the private key is the sender's"
            )
        timestamp = str(int(self._moment))
        message = check.message(self._message_id, timestamp, self._body)
        return {
            WEBHOOK_ID: self._message_id,
            WEBHOOK_TIMESTAMP: timestamp,
            WEBHOOK_SIGNATURE: check.signature(keys[0], message).decode(),
        }

    def _first(
        self, entries: Iterable[tuple[str, Secret, Callable[[bytes], bytes]]], what: str
    ) -> str:
        return Keyring(entries, self._read, what).valid_at(self._moment)[0].decode()


def _credentials_of(user: str) -> Callable[[bytes], bytes]:
    pair = pair_of(user)
    return lambda password: binascii.b2a_base64(pair(password), newline=False)
