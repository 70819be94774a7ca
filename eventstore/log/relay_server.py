"""Appending for other workers of this server."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from eventstore.errors import LoopledgerError
from eventstore.limits import Limits
from eventstore.log.appender import Appender
from eventstore.log.events import Appended
from eventstore.log.relay_messages import (
    Batch,
    Committed,
    Failed,
    FrameProtocol,
    Hello,
    Leaving,
    Message,
    Outcomes,
    Ping,
    State,
    failed,
)


class RelayServer:
    """Has `appender` append what other workers hand over.

    Each of them sends one end of a connection through `rendezvous`, a socket that all workers inherit: nobody else can.
    """

    def __init__(self, appender: Appender, rendezvous: socket.socket, limits: Limits) -> None:
        self._appender = appender
        self._rendezvous = rendezvous
        self._limits = limits
        self._peers: set[_Peer] = set()
        self._greetings: set[asyncio.Task[None]] = set()
        self._all_gone = asyncio.Event()

    def start(self) -> None:
        """Begin to take connections."""
        self._rendezvous.setblocking(False)  # noqa: FBT003 - its own signature
        asyncio.get_running_loop().add_reader(self._rendezvous.fileno(), self._accept)

    async def stop(self) -> None:
        """Take no more; return once all that was taken is answered, at the latest after `drain_seconds`."""
        asyncio.get_running_loop().remove_reader(self._rendezvous.fileno())
        for peer in self._peers:
            peer.leave()
        self._all_gone.clear()
        if self._peers:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drain_seconds):
                    await self._all_gone.wait()

    def _accept(self) -> None:
        try:
            _, descriptors, _, _ = socket.recv_fds(self._rendezvous, 1, 1)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - as above
            greeting = asyncio.create_task(self._greet(socket.socket(fileno=descriptor)))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 - its own signature
        peer = _Peer(self._appender, self._forget)
        self._peers.add(peer)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: peer.protocol, connection)
        peer.greet()

    def _forget(self, peer: "_Peer") -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._all_gone.set()


class _Peer:
    """A worker that hands its events over."""

    def __init__(self, appender: Appender, on_end: Callable[["_Peer"], None]) -> None:
        self.protocol = FrameProtocol(self._on_message, lambda: on_end(self))
        self._appender = appender
        # What became of events, and was not sent yet.
        self._outcomes: list[Committed | Failed] = []

    def greet(self) -> None:
        """Tell whose sessions will append."""
        self.protocol.send(Hello(self._appender.writer, self._appender.seen_head))

    def leave(self) -> None:
        """Have it hand over no more, and end the connection once it has all answers."""
        self.protocol.send(Leaving())

    def _on_message(self, message: Message) -> None:
        match message:
            case Batch(number, events, deadlines):
                for index, (event, deadline) in enumerate(zip(events, deadlines, strict=True)):
                    on_outcome = partial(self._on_outcome, number, index)
                    try:
                        self._appender.submit(event, on_outcome, deadline)
                    except LoopledgerError as error:
                        on_outcome(error)
            case Ping():
                appender = self._appender
                self.protocol.send(State(appender.seen_head, appender.refusal, appender.outage))

    def _on_outcome(self, number: int, index: int, outcome: Appended | LoopledgerError) -> bool:
        if not self._outcomes:
            # What becomes known together goes together.
            asyncio.get_running_loop().call_soon(self._send_outcomes)
        if not isinstance(outcome, Appended):
            self._outcomes.append(failed(number, index, outcome))
            return True
        position, recorded_at = outcome.position, outcome.recorded_at
        last = self._outcomes[-1] if self._outcomes else None
        if (
            isinstance(last, Committed)
            and last.number == number
            and last.first + last.count == index
            and last.position + last.count == position
            and last.recorded_at == recorded_at
        ):
            last.count += 1
        else:
            self._outcomes.append(Committed(number, index, 1, position, recorded_at))
        return True

    def _send_outcomes(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        self.protocol.send(Outcomes(outcomes, self._appender.seen_head))
