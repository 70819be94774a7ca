"""The limits on all connections together: how many there are, what came and cannot be used yet, what is not read.

Who has brought a verified delivery is known; everybody else is a stranger. Where a limit is reached, a stranger gives
way to the newcomer (`Strangers`); a known sender never has to, and takes no room from them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from eventstore.errors import LoopledgerError
from eventstore.limits import Limits
from web.errors import (
    CrowdedError,
    HeadTooSlowError,
    TooManyConnectionsError,
    TooManyFromAddressError,
)
from web.ingest.responses import Serializer
from web.ingest.strangers import Owner, Strangers

logger = structlog.get_logger()

# Seconds between two warnings of one kind.
WARNING_SECONDS = 60.0

# While all strangers have just come, there may be so many times as many of them.
FRESH_FACTOR = 2

# How many may give way to one newcomer: each time a few, so that closing them holds up nothing else.
GIVE_WAY_AT_ONCE = 8

# More than a usual head takes while it is not complete, with what the parser keeps for its lines.
LARGE_BYTES = 16 * 1024

# Bytes that the parser keeps for each line of a head, besides its text.
LINE_BYTES = 400

# Seconds for which more of a refused request is read and thrown away: else its sender would not see the response.
LINGERING_SECONDS = 1.0

# A sender that reads so many bytes of its responses in `write_seconds` is slow, and no more than that.
SLOWEST_READING = 16 * 1024

# How often connections are checked for having run out of time, in seconds.
SWEEP_SECONDS = 0.25


class Connection:
    """One connection, as the limits see it."""

    __slots__ = (
        "in_head",
        "key",
        "known",
        "left",
        "mark",
        "owner",
        "since",
        "transport",
        "trusted",
        "unused",
    )

    def __init__(self, owner: Owner, transport: asyncio.Transport, key: str) -> None:
        self.owner = owner
        self.transport = transport
        self.key = key
        self.known = False
        # Its address is a provider's or a proxy's.
        self.trusted = False
        # It was counted out; whatever it still brings is thrown away.
        self.left = False
        # Bytes that came and cannot be used yet: of a head without its end, or behind a request that is under way.
        self.unused = 0
        self.in_head = False
        self.since = 0.0
        # When how many bytes of responses were not read yet.
        self.mark = (0.0, 0)


class _Address:
    """The connections of one address."""

    __slots__ = ("count", "limit", "strangers", "trusted")

    def __init__(self, limit: int, *, trusted: bool) -> None:
        self.count = 0
        # Of strangers, and of those that are known.
        self.limit = limit
        self.trusted = trusted
        self.strangers: Strangers[Connection] = Strangers()


class ConnectionLimiter:
    """Counts connections and holds them to the limits.

    `key_of` gives the key that an address is counted under; `is_trusted` says whether an address is a provider's or a
    proxy's. `counts` holds how often each kind of closing happened.
    """

    def __init__(
        self, limits: Limits, key_of: Callable[[str], str], is_trusted: Callable[[str], bool]
    ) -> None:
        self.limits = limits
        self.serializer = Serializer()
        self.counts: Counter[str] = Counter()
        self._key_of = key_of
        self._is_trusted = is_trusted
        self._all: set[Connection] = set()
        self._strangers: Strangers[Connection] = Strangers()
        # Those from addresses that are trusted.
        self._trusted: Strangers[Connection] = Strangers()
        self._addresses: dict[str, _Address] = {}
        # Those that began first come first; and of them those that hold more than a usual head.
        self._waiting: dict[Connection, None] = {}
        self._large: dict[Connection, None] = {}
        self._unused = 0
        self._unread: dict[Connection, None] = {}
        self._leaving: dict[Connection, float] = {}
        self._warned: dict[str, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._all)

    @property
    def strangers(self) -> int:
        """How many of them are strangers'."""
        return len(self._strangers) + len(self._trusted)

    def enter(self, owner: Owner, transport: asyncio.Transport, address: str) -> Connection:
        """Count a new connection. Raises TooManyConnectionsError, TooManyFromAddressError."""
        limits = self.limits
        key = self._key_of(address)
        here = self._addresses.get(key)
        if here is None:
            trusted = self._is_trusted(address)
            most = limits.trusted_address_connections if trusted else limits.address_connections
            here = _Address(most, trusted=trusted)
        if len(here.strangers) >= here.limit:
            self._warn_of_address(address, here)
            if not self._make_room(here.strangers, here.limit):
                self.counts["refused"] += 1
                raise TooManyFromAddressError(limit=here.limit)
        if not here.trusted and len(self._strangers) >= limits.stranger_connections:
            self._warn_of_all(limits)
            if not self._make_room(self._strangers, limits.stranger_connections):
                self.counts["refused"] += 1
                raise TooManyConnectionsError(limit=limits.connections)
        if len(self._all) >= limits.connections:
            self._warn_of_all(limits)
            if not any(
                self._make_room(each, len(each), 1) for each in (self._strangers, self._trusted)
            ):
                self.counts["refused"] += 1
                raise TooManyConnectionsError(limit=limits.connections)
        connection = Connection(owner, transport, key)
        # So that `pause_writing` tells of every response that is not read.
        transport.set_write_buffer_limits(high=0)
        self._addresses[key] = here
        here.count += 1
        connection.trusted = here.trusted
        for strangers in self._strangers_beside(connection):
            strangers.add(connection)
        self._all.add(connection)
        self._start_sweeping()
        return connection

    def leave(self, connection: Connection) -> None:
        """Count a connection out: it is closed, or about to be."""
        if connection.left:
            return
        connection.left = True
        self.use(connection)
        self._all.discard(connection)
        self._forget_stranger(connection)
        here = self._addresses[connection.key]
        here.count -= 1
        if not here.count:
            del self._addresses[connection.key]

    def gone(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.leave(connection)
        self._unread.pop(connection, None)
        self._leaving.pop(connection, None)

    def know(self, connection: Connection) -> None:
        """Note that a connection has brought a verified delivery.

        It stands with the strangers all the same if its address has very many that are known: the senders of one
        provider must not take all connections either.
        """
        connection.known = True
        if not connection.left:
            here = self._addresses[connection.key]
            if here.count - len(here.strangers) < here.limit:
                self._forget_stranger(connection)

    def refuse(self, connection: Connection) -> None:
        """Note that a connection has brought what claims to be a delivery and is not verified."""
        if not connection.known and not connection.left:
            for strangers in self._strangers_beside(connection):
                strangers.refuse(connection)

    def hold(self, connection: Connection, data: bytes, *, in_head: bool) -> None:
        """Count bytes that cannot be used yet: a stranger gives way if there are too many, perhaps this one."""
        size = len(data) + LINE_BYTES * data.count(b"\n") if in_head else len(data)
        if not connection.unused:
            connection.since = time.monotonic()
            connection.in_head = in_head
            self._waiting[connection] = None
        connection.unused += size
        self._unused += size
        if connection.unused > LARGE_BYTES:
            self._large[connection] = None
        while self._unused > self.limits.unused_bytes:
            large = next((each for each in self._large if not each.known), None)
            slowest = large or next((each for each in self._waiting if not each.known), None)
            self._give_way(slowest or next(iter(self._waiting)))

    def use(self, connection: Connection) -> None:
        """Note that what was held of a connection is used."""
        if connection.unused:
            self._unused -= connection.unused
            connection.unused = 0
            del self._waiting[connection]
            self._large.pop(connection, None)

    def stall(self, connection: Connection) -> None:
        """Note that a sender does not read its responses as fast as they come."""
        connection.mark = (time.monotonic(), connection.transport.get_write_buffer_size())
        self._unread[connection] = None
        unread = {each: each.transport.get_write_buffer_size() for each in self._unread}
        total = sum(unread.values())
        for each, size in sorted(unread.items(), key=lambda pair: (pair[0].known, -pair[1])):
            if total <= self.limits.unread_bytes:
                break
            total -= size
            self._abort(each, "unread")

    def flow(self, connection: Connection) -> None:
        """Note that a sender has read all its responses."""
        self._unread.pop(connection, None)

    def dismiss(self, connection: Connection, error: LoopledgerError) -> None:
        """Respond that something is wrong, and close; what still comes is thrown away for a moment."""
        self.leave(connection)
        transport = connection.transport
        if transport.is_closing():
            return
        transport.write(self.serializer.problem(error))
        if transport.can_write_eof():
            transport.write_eof()
            self._leaving[connection] = time.monotonic() + LINGERING_SECONDS
        else:
            transport.close()

    def close(self) -> None:
        """Stop watching connections."""
        if self._sweep is not None:
            self._sweep.cancel()

    def _forget_stranger(self, connection: Connection) -> None:
        for strangers in self._strangers_beside(connection):
            strangers.remove(connection)

    def _strangers_beside(self, connection: Connection) -> tuple[Strangers[Connection], ...]:
        """Where a connection stands as long as it is a stranger's."""
        everywhere = self._trusted if connection.trusted else self._strangers
        return everywhere, self._addresses[connection.key].strangers

    def _make_room(
        self, strangers: Strangers[Connection], limit: int, factor: int = FRESH_FACTOR
    ) -> bool:
        """Have strangers give way, so that there are fewer than `limit`; says whether there is room for one more.

        If all of them have just come, there is room for `factor` times as many.
        """
        strangers.settle(asyncio.get_running_loop().time() - self.limits.fresh_seconds)
        for _ in range(GIVE_WAY_AT_ONCE):
            if len(strangers) < limit:
                return True
            first = strangers.first_to_go(fresh=False)
            if first is None:
                break
            self._give_way(first)
        if len(strangers) >= factor * limit:
            if (first := strangers.first_to_go(fresh=True)) is None:
                return False
            self._give_way(first)
        return True

    def _give_way(self, connection: Connection) -> None:
        self.counts["gave_way"] += 1
        self.leave(connection)
        connection.owner.give_way(CrowdedError())

    def _abort(self, connection: Connection, why: str) -> None:
        self.counts[why] += 1
        self.gone(connection)
        connection.transport.abort()

    def _start_sweeping(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._look)

    def _look(self) -> None:
        """Close the connections whose time is up."""
        now = time.monotonic()
        for connection in [each for each, end in self._leaving.items() if end <= now]:
            self.gone(connection)
            connection.transport.abort()
        for connection in tuple(self._unread):
            self._look_at_unread(connection, now)
        begun = now - self.limits.head_seconds
        for connection in [each for each in self._waiting if each.in_head and each.since <= begun]:
            self.counts["head_too_slow"] += 1
            self.leave(connection)
            connection.owner.give_way(HeadTooSlowError(seconds=self.limits.head_seconds))
        self._sweep = None
        if self._all or self._unread or self._leaving:
            self._start_sweeping()

    def _look_at_unread(self, connection: Connection, now: float) -> None:
        since, before = connection.mark
        size = connection.transport.get_write_buffer_size()
        if size <= before - SLOWEST_READING:
            connection.mark = (now, size)
        elif now - since >= self.limits.write_seconds:
            self._abort(connection, "unread")

    def _warn_of_all(self, limits: Limits) -> None:
        if self._may_warn("connection_refused"):
            logger.warning(
                "connection_refused",
                message="As many connections are open as the limits allow: strangers give way, or others are refused.",
                connections=len(self._all),
                limit=limits.connections,
                strangers=len(self._strangers),
                stranger_limit=limits.stranger_connections,
            )

    def _warn_of_address(self, address: str, here: _Address) -> None:
        if self._may_warn("address_crowded"):
            logger.warning(
                "address_crowded",
                message="One address has as many connections as it may: strangers give way, or others are refused. "
                "Behind a proxy that no `trusted_proxies` declares, all senders share its address.",
                address=address,
                limit=here.limit,
            )

    def _may_warn(self, event: str) -> bool:
        now = time.monotonic()
        if now - self._warned.get(event, -WARNING_SECONDS) < WARNING_SECONDS:
            return False
        self._warned[event] = now
        return True
