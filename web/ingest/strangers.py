"""Which stranger gives way: of one address, or of all.

Nobody is asked who has just come. A delivery that came in one burst with many others is on its way, or lies unread in
the kernel: only after a while has its sender had the time to show whose it is.
"""

from typing import Generic, Protocol, TypeVar

from eventstore.errors import LoopledgerError

# How many strangers are asked to give way before a newcomer is refused.
ASKED_TO_GIVE_WAY = 100


class Owner(Protocol):
    """The protocol that a connection has now."""

    @property
    def idle_since(self) -> float:
        """When it was answered last, by the clock of the loop."""

    def can_give_way(self, *, busy: bool) -> bool:
        """Whether it may be closed: nothing of it is under way; or, if `busy`, no delivery that is complete."""

    def give_way(self, error: LoopledgerError) -> None:
        """Close the connection, with a response if there is a request to respond to."""


class Stranger(Protocol):
    """A connection that has brought no verified delivery yet."""

    owner: Owner


T = TypeVar("T", bound=Stranger)


class Strangers(Generic[T]):
    """Connections of strangers, those that give way first before the others.

    First those that were refused as unverified, then those that were silent longest, last those that have just come.
    """

    __slots__ = ("_fresh", "_refused", "_settled")

    def __init__(self) -> None:
        # When each came, or was answered last as far as is known; the first come first.
        self._fresh: dict[T, float] = {}
        self._settled: dict[T, float] = {}
        self._refused: dict[T, float] = {}

    def __len__(self) -> int:
        return len(self._fresh) + len(self._settled) + len(self._refused)

    def add(self, connection: T) -> None:
        """Add one that has just come."""
        self._fresh[connection] = connection.owner.idle_since

    def remove(self, connection: T) -> None:
        """Remove one, if it is there."""
        for group in (self._fresh, self._settled, self._refused):
            if group.pop(connection, None) is not None:
                break

    def refuse(self, connection: T) -> None:
        """Note that what one brought was refused: its sender is not who it claims to be."""
        if connection in self._fresh or connection in self._settled:
            self.remove(connection)
            self._refused[connection] = connection.owner.idle_since

    def settle(self, before: float) -> None:
        """Note that those that came before `before` have had their time."""
        while self._fresh:
            connection, came = next(iter(self._fresh.items()))
            if came > before:
                break
            del self._fresh[connection]
            self._settled[connection] = came

    def first_to_go(self, *, fresh: bool) -> T | None:
        """Who gives way; one that has just come only if `fresh`. None if nobody can."""
        for group in (self._refused, self._settled, self._fresh)[: 3 if fresh else 2]:
            for busy in (False, True):
                if (found := _ask(group, busy=busy)) is not None:
                    return found
        return None


def _ask(group: dict[T, float], *, busy: bool) -> T | None:
    # Twice: one that was heard of since comes last, and may still be the one.
    for _ in range(min(2 * len(group), ASKED_TO_GIVE_WAY)):
        connection = next(iter(group))
        since = connection.owner.idle_since
        if since <= group[connection] and connection.owner.can_give_way(busy=busy):
            return connection
        # It was heard of since it was put here, or is about to be answered.
        del group[connection]
        group[connection] = since
    return None
