"""The command `loopledger listen`: posts each event to a service of one's own, as it comes on record."""

import argparse
import asyncio
import hashlib
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import platformdirs

from commands._forwarding import Checkpoint, Forwarder, Outgoing, forwarding
from commands._http import (
    DONE,
    UnexpectedResponseError,
    add_url,
    api_client,
    find_server,
    run_reporting,
)
from commands._screen import Screen, standard_screen
from commands._sse import follow
from commands.tail import add_filter
from eventstore.errors import LoopledgerError
from runtime.arguments import server_url, whole_number
from runtime.secrets import read_secret
from verification.keyring import Secret
from verification.signatures import HmacKey, StandardCheck, StandardWebhooks

HELP = "post each event to a service of your own, as it comes on record"

# Seconds that the service may take for one event.
ANSWER_SECONDS = 30.0

# Seconds between two lines about events that are not taken.
COMPLAINT_SECONDS = 10.0

# What a header may hold as it is.
PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class WhereToBeginError(LoopledgerError):
    """There is no checkpoint {file} yet: say with --since behind which position to begin (0: with the first event)."""


class LostError(LoopledgerError):
    """The log ends at position {position}, before events that were read: an operator accepted their loss. Remove the
    checkpoint {file}, and begin again with --since.
    """  # noqa: D205 - one message


class UnsignableSecretError(LoopledgerError):
    """Only a secret that both sides know (whsec_...) signs; this is the public key of somebody's private one."""


class HeardEvent(msgspec.Struct):
    """What is read of an event that came. `body` is in base64."""

    position: int
    event_id: str
    stream: str
    topic: str
    body: bytes = b""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loopledger listen`."""
    add_url(parser)
    parser.add_argument(
        "--to", type=server_url, required=True, metavar="URL", help="post the events there"
    )
    parser.add_argument(
        "--since",
        type=whole_number(0),
        metavar="POSITION",
        help="begin behind this position, if there is no checkpoint yet; 0: with the first event",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep here how far it is (default: a file for this server, URL and filters in the user's state directory)",
    )
    add_filter(parser)
    parser.add_argument(
        "--send",
        choices=["event", "body"],
        default="event",
        help="post the event as JSON (%(default)s), or the exact bytes that were received (scope raw)",
    )
    parser.add_argument(
        "--connections",
        type=whole_number(1, 256),
        default=8,
        metavar="N",
        help="post events of so many streams at once (%(default)s)",
    )
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument(
        "--secret-env", metavar="NAME", help="sign with the secret in this environment variable"
    )
    secret.add_argument("--secret-file", metavar="FILE", help="sign with the secret in this file")


def run(given: argparse.Namespace, screen: Screen | None = None) -> int:
    """Post events until stopped; gives back the exit code: 0 after SIGTERM, 1 if refused, 2 if no server answers."""
    chosen = screen or standard_screen()
    return run_reporting(chosen, lambda: asyncio.run(_until_stopped(given, chosen)))


async def _until_stopped(given: argparse.Namespace, screen: Screen) -> int:
    task = asyncio.current_task()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        if task is not None:
            task.cancel()

    with suppress(ValueError, RuntimeError):
        # Not where this is not the main thread.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await _run(given, screen)
    except asyncio.CancelledError:
        if stopping:
            return DONE
        raise


async def _run(given: argparse.Namespace, screen: Screen) -> int:
    address = find_server(given)
    identity = [address.url, given.to, sorted(given.filters), given.send]
    checkpoint = Checkpoint(given.checkpoint or _default_file(identity))
    position = await asyncio.to_thread(checkpoint.open)
    try:
        if position is None and (position := given.since) is None:
            raise WhereToBeginError(file=checkpoint.file)
        screen.error(f"listening behind position {position}; the checkpoint is {checkpoint.file}")
        async with api_client(address) as client, Target(given, screen) as target:
            forwarder = Forwarder(target.deliver, position=position, connections=given.connections)
            question = [*given.filters, *([("body", "true")] if given.send == "body" else [])]
            path = f"/v1/events/stream?{urlencode([*question, ('after', str(position))])}"
            async with forwarding(forwarder, checkpoint):
                async for message in follow(
                    client, path, str(position), target.report_break, lambda: find_server(given)
                ):
                    if message.event == "reset":
                        raise LostError(position=message.id, file=checkpoint.file)
                    if message.data:
                        await forwarder.offer(_outgoing(message.data.encode()))
                    elif message.id:
                        forwarder.skip(int(message.id))
    finally:
        checkpoint.close()
    return DONE


def _default_file(identity: list[Any]) -> Path:
    digest = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16]
    return platformdirs.user_state_path("loopledger") / f"listen-{digest}.json"


def _outgoing(data: bytes) -> Outgoing:
    try:
        event = msgspec.json.decode(data, type=HeardEvent)
    except msgspec.DecodeError as error:
        raise UnexpectedResponseError(path="/v1/events/stream", problem=str(error)) from error
    return Outgoing(event.position, event.stream, data)


class Target:
    """The service that events are posted to."""

    def __init__(self, given: argparse.Namespace, screen: Screen) -> None:
        self._url = given.to
        self._exact = given.send == "body"
        self._screen = screen
        self._signer = _signer_of(given)
        self._complained = -COMPLAINT_SECONDS
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            connector=aiohttp.TCPConnector(limit=given.connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "loopledger-listen"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def deliver(self, outgoing: Outgoing, pause: float) -> float | None:
        """Post an event; gives back how long to wait before the next try, None if it was taken."""
        event = msgspec.json.decode(outgoing.data, type=HeardEvent)
        body = event.body if self._exact else outgoing.data
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers(event, body), allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:  # noqa: PLR2004 - what was taken
                    return None
                problem = f"{response.status} {response.reason}"
        except (aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
        self._complain(f"event {event.position} was not taken ({problem}); trying again")
        return pause

    def report_break(self, problem: str) -> None:
        """Say that the stream broke."""
        self._complain(f"the stream broke ({problem}); connecting again")

    def _headers(self, event: HeardEvent, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Loopledger-Position": str(event.position),
            "Loopledger-Event-Id": event.event_id,
            "Loopledger-Topic": quote(event.topic, safe=PRINTABLE),
            "Loopledger-Stream": event.stream,
            "Webhook-Id": event.event_id,
        }
        if self._signer is not None:
            moment = time.time()
            timestamp = str(int(moment))
            message = self._signer.message(event.event_id, timestamp, body)
            key = self._signer.keys.valid_at(moment)[0]
            if not isinstance(key, HmacKey):
                raise UnsignableSecretError
            headers["Webhook-Timestamp"] = timestamp
            headers["Webhook-Signature"] = self._signer.signature(key, message).decode()
        return headers

    def _complain(self, problem: str) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            self._screen.error(problem)


def _signer_of(given: argparse.Namespace) -> StandardCheck | None:
    """What signs, if there is a secret. Raises SettingsError, UnsignableSecretError."""
    if given.secret_env is None and given.secret_file is None:
        return None
    secret = Secret(env=given.secret_env, file=given.secret_file)
    signer = StandardCheck(StandardWebhooks(secrets=(secret,)), read_secret, "listen")
    if not all(isinstance(key, HmacKey) for key in signer.keys):
        raise UnsignableSecretError
    return signer
