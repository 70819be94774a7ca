"""Live streams over HTTP: Server-Sent Events, whose ids lead on after a break."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from eventstore.limits import Limits
from eventstore.postgres.failures import is_outage
from eventstore.query.live import Batch, Feed, Item, Place, Subscription
from eventstore.query.live_events import EventFeed
from eventstore.query.live_states import StateFeed
from eventstore.tasks import cancel_all, start_for_all
from web.access import Access
from web.auth import log_secrets_read
from web.errors import MalformedHeaderError, TooManyKeyStreamsError, TooManyStreamsError

LAST_EVENT_ID = "Last-Event-ID"

# Seconds between two looks at whether the readers of all streams are there, and may still read.
WATCH_SECONDS = 0.5

# Milliseconds after which a browser connects again.
RETRY_MILLISECONDS = 1000

# Bytes that are written at a time, more or less.
CHUNK = 64 * 1024

HEADERS = {
    "Content-Type": "text/event-stream",
    # Else nginx would keep what is written until it has enough of it.
    "X-Accel-Buffering": "no",
}


class Form(msgspec.Struct, frozen=True):
    """How a kind of stream is written: what its items are called, and whether its ids have a generation."""

    event: str
    generations: bool = False

    def id_of(self, place: Place) -> str:
        """The id of a place: "17", or "3-17" in generation 3."""
        if self.generations:
            return f"{place.generation}-{place.position}"
        return str(place.position)

    def place_of(self, text: str) -> Place | None:
        """The place of an id; None if it is none. One of states may be a position only: in the live generation, 0."""
        pattern = r"(?:([0-9]{1,9})-)?([0-9]{1,18})" if self.generations else r"()([0-9]{1,18})"
        match = re.fullmatch(pattern, text, re.ASCII)
        return None if match is None else Place(int(match[1] or 0), int(match[2]))

    def items(self, items: Sequence[Item], generation: int) -> Iterator[bytes]:
        """The items of a batch, in chunks."""
        chunk = bytearray()
        for item in items:
            id_ = self.id_of(Place(generation, item.position))
            chunk += f"id: {id_}\nevent: {self.event}\ndata: ".encode() + item.body + b"\n\n"
            if len(chunk) >= CHUNK:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)

    def reset(self, place: Place) -> bytes:
        """That all begins again."""
        data = {"position": place.position}
        if self.generations:
            data = {"generation": place.generation, **data}
        told = msgspec.json.encode(data)
        return f"id: {self.id_of(place)}\nevent: reset\ndata: ".encode() + told + b"\n\n"

    def beat(self, place: Place | None) -> bytes:
        """That the stream is there, and how far it is: without data, so that nobody is told of it."""
        return b":\n\n" if place is None else f":\nid: {self.id_of(place)}\n\n".encode()


EVENTS = Form("event")
STATES = Form("state", generations=True)


class LiveStream:
    """One live stream that is open."""

    def __init__(self, access: Access, subscription: Subscription[Any]) -> None:
        self.access = access
        self.subscription = subscription
        self.request: web.Request | None = None
        self.writing = False

    @property
    def is_left(self) -> bool:
        """Whether its reader has left, as far as can be seen."""
        request = self.request
        if request is None or request.transport is None or request.transport.is_closing():
            return True
        # Who only sends no more may still read; but whoever is gone looks the same, and a stream has no end.
        return getattr(request.protocol, "sender_ended", False)

    def end(self) -> None:
        """End it, at once if its reader does not take what is being written."""
        self.subscription.end()
        if self.writing:
            self.abort()

    def abort(self) -> None:
        """Close the connection, whatever is still to be written."""
        if self.request is not None and self.request.transport is not None:
            self.request.transport.abort()


class LiveStreams:
    """The live streams of this process: what they are told, and how many there may be."""

    def __init__(
        self,
        limits: Limits,
        events: EventFeed,
        states: Mapping[str, StateFeed],
        is_in_force: Callable[[Access], Awaitable[bool]],
    ) -> None:
        self.limits = limits
        self._is_in_force = is_in_force
        self.events = events
        self.states = states
        self._open: set[LiveStream] = set()
        # Including those that are about to be open.
        self._counts: Counter[str] = Counter()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    async def close(self) -> None:
        """End all streams, and have no new one last."""
        self._closed = True
        for stream in tuple(self._open):
            stream.end()
        feeds: list[Feed[Any]] = [self.events, *self.states.values()]
        for feed in feeds:
            await feed.close()
        if self._watching is not None:
            await cancel_all(self._watching)

    def enter(self, access: Access) -> None:
        """Count a stream. Raises TooManyStreamsError, TooManyKeyStreamsError."""
        if self._counts.total() >= self.limits.streams:
            raise TooManyStreamsError(limit=self.limits.streams)
        if self._counts[access.name] >= self.limits.key_streams:
            raise TooManyKeyStreamsError(limit=self.limits.key_streams)
        self._counts[access.name] += 1

    def leave(self, access: Access) -> None:
        """Count a stream out."""
        self._counts[access.name] -= 1
        if not self._counts[access.name]:
            del self._counts[access.name]

    def add(self, stream: LiveStream) -> None:
        """Watch an open stream."""
        if self._closed:
            stream.end()
        self._open.add(stream)
        if self._watching is None or self._watching.done():
            self._watching = start_for_all(self._watch(), "live-streams")

    def discard(self, stream: LiveStream) -> None:
        """Watch a stream no more."""
        self._open.discard(stream)

    async def _watch(self) -> None:
        """End the streams whose readers have gone, or may not read any more: nothing else tells of them while there is
        nothing to write.
        """  # noqa: D205 - one sentence
        while self._open:
            for stream in tuple(self._open):
                if stream.is_left or not await self._may_read(stream.access):
                    stream.end()
            await asyncio.sleep(WATCH_SECONDS)

    async def _may_read(self, access: Access) -> bool:
        try:
            return await self._is_in_force(access)
        except Exception as error:
            if not is_outage(error):
                raise
            # Without Postgres there is nothing to be told either.
            return True


class LiveAnswer(msgspec.Struct, frozen=True):
    """An answer that goes on: what of a feed answers a question, behind the place `after`, or from now on.

    A reader whose question is `private` is not told how far the feed is where that is not their own. `bodies` adds the
    exact bytes to events.
    """

    streams: LiveStreams
    feed: Feed[Any]
    question: Any
    form: Form
    access: Access
    after: Place | None
    private: bool
    bodies: EventFeed | None = None

    async def write(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Write until the reader leaves or the stream is ended. Raises MalformedHeaderError, TooManyStreamsError."""
        after = self.after
        # A browser connects again with the address that it began with, and this header.
        if (last := request.headers.get(LAST_EVENT_ID)) is not None:
            after = self.form.place_of(last)
            if after is None:
                raise MalformedHeaderError(header=LAST_EVENT_ID)
        response = web.StreamResponse(headers={**headers, **HEADERS})
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        if self.bodies is not None:
            log_secrets_read(self.access, "raw", request)
        self.streams.enter(self.access)
        try:
            subscription = await self.feed.subscribe(self.question, after)
            stream = LiveStream(self.access, subscription)
            try:
                # Whoever leaves does so at any time.
                with suppress(ConnectionError):
                    await response.prepare(request)
                    stream.request = request
                    self.streams.add(stream)
                    await self._write(stream, response, told=after is not None)
            finally:
                self.streams.discard(stream)
                subscription.close()
        finally:
            self.streams.leave(self.access)
        return response

    async def _write(self, stream: LiveStream, response: web.StreamResponse, *, told: bool) -> None:
        clock = asyncio.get_running_loop().time
        subscription = stream.subscription
        start = f"retry: {RETRY_MILLISECONDS}\n".encode()
        place = subscription.place if told or not self.private else None
        await self._send(stream, response, start + self.form.beat(place))
        beat = clock() + self.streams.limits.heartbeat_seconds
        last = subscription.place.position if told else 0
        while True:
            batch = await subscription.next(beat - clock())
            if subscription.ended:
                break
            if batch.items:
                last = batch.items[-1].position
            elif self.private:
                # How far others' things reach is nobody else's business, not even where all begins again.
                batch = batch._replace(place=batch.place._replace(position=last))
            async for chunk in self._chunks(batch, due=clock() >= beat):
                await self._send(stream, response, chunk)
                beat = clock() + self.streams.limits.heartbeat_seconds

    async def _chunks(self, batch: Batch, *, due: bool) -> AsyncIterator[bytes]:
        generation = batch.place.generation
        if batch.reset:
            yield self.form.reset(batch.place)
        elif batch.items and self.bodies is not None:
            async for item in self.bodies.with_bodies(batch.items):
                for chunk in self.form.items([item], generation):
                    yield chunk
        elif batch.items:
            for chunk in self.form.items(batch.items, generation):
                yield chunk
        elif due:
            yield self.form.beat(None if self.private else batch.place)

    async def _send(self, stream: LiveStream, response: web.StreamResponse, data: bytes) -> None:
        """Write some bytes. Raises ConnectionError if the reader is gone, or takes too long."""
        stream.writing = True
        try:
            async with asyncio.timeout(self.streams.limits.write_seconds):
                await response.write(data)
        except TimeoutError:
            stream.abort()
            raise ConnectionAbortedError from None
        finally:
            stream.writing = False
