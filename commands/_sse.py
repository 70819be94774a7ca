"""Following live streams: Server-Sent Events (the HTML standard, section 9.2), over any number of breaks."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

from commands._http import (
    TEMPORARY_STATUSES,
    ApiClient,
    ErrorResponseError,
    NoServerError,
    ServerAddress,
)
from eventstore.errors import LoopledgerError
from eventstore.tasks import Backoff

# Seconds between tries to connect again: the first, doubled up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

# So many refusals of a key in a row are meant.
MOST_REFUSALS = 5

# Bytes of a line at most: the largest body of an event, in base64, and much besides.
LONGEST_LINE = 64 * 1024 * 1024


class TooLongLineError(LoopledgerError):
    """A line of the stream is longer than {limit} bytes."""


class Message(NamedTuple):
    """What came: `id` is the last id so far. A message without `data` says only how far the stream is."""

    id: str
    event: str
    data: str


async def messages(chunks: AsyncIterable[bytes], last_id: str = "") -> AsyncIterator[Message]:
    """The messages of a stream, given its bytes; one that is cut off is none, and its id does not count."""
    id_, event, data = last_id, "", list[str]()
    async for line in _lines(chunks):
        if not line:
            if data or id_ != last_id:
                yield Message(id_, event or "message", "\n".join(data))
            last_id, event, data = id_, "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "id":
                id_ = value
            case "event":
                event = value
            case "data":
                data.append(value)


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The lines that are complete."""
    # Joined only where a line ends: one may come in many pieces.
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for each in ended:
            line = b"".join([*pieces, each])
            yield line.decode("utf-8", "replace").removesuffix("\r")
            pieces, size = [], 0
        pieces.append(rest)
        size += len(rest)
        if size > LONGEST_LINE:
            raise TooLongLineError(limit=LONGEST_LINE)


async def follow(
    client: ApiClient,
    path: str,
    last_id: str,
    on_break: Callable[[str], None],
    find: Callable[[], ServerAddress] | None = None,
) -> AsyncIterator[Message]:
    """The messages of a stream without end, from behind `last_id` on, or from where `path` says.

    A stream that breaks is connected to again, where `find` says then; `on_break` is told why it broke. Raises
    NoServerError if there never was one, and ErrorResponseError.
    """
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    began = False
    refusals = 0
    while True:
        problem = "it ended"
        try:
            async with client.stream(path, {"Last-Event-ID": last_id} if last_id else {}) as chunks:
                began, refusals = True, 0
                async for message in messages(chunks, last_id):
                    backoff.reset()
                    last_id = message.id
                    yield message
        except NoServerError as error:
            if not began:
                raise
            problem = str(error.facts["problem"])
        except ErrorResponseError as error:
            # A server that has just started may be asked with the local key that it had before.
            refusals += error.facts["status"] == HTTPStatus.UNAUTHORIZED
            temporary = error.facts["status"] in {*TEMPORARY_STATUSES, HTTPStatus.UNAUTHORIZED}
            if not (began and temporary) or refusals > MOST_REFUSALS:
                raise
            problem = str(error)
        on_break(problem)
        await asyncio.sleep(backoff.next_pause())
        if find is not None:
            with suppress(LoopledgerError):
                client.renew(find())
