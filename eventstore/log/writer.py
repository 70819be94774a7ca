"""The session that appends: one statement a batch, and what became of a batch whose session was lost."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import token_hex
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import structlog

from eventstore.errors import UnavailableError
from eventstore.log.batch import Pending, columns_of, report
from eventstore.log.events import Appended
from eventstore.log.known_head import KnownHead, position_that_holds
from eventstore.log.queries import QUERIES
from eventstore.metrics import Commits
from eventstore.postgres.database import keep_plans

if TYPE_CHECKING:
    from uuid import UUID

    from asyncpg import Connection, Record

logger = structlog.get_logger()

# What is told of a delivery that is on record in a database that is not accepted.
IN_DOUBT = "the database has changed its timeline, or is behind; see the server's log"


class Doubt(NamedTuple):
    """Why the outcome of a batch is unknown: sessions of this `writer` may have appended it, or may do so yet.

    If it is on record, then after the position `after`, as the log was when a timeline had been accepted `acceptance`
    times.
    """

    writer: str
    after: int
    acceptance: int


class SeenHead(NamedTuple):
    """A position that the log has reached, as it was when a timeline had been accepted `acceptance` times."""

    position: int
    acceptance: int


class LogWriter:
    """One session of Postgres at a time, which appends batches.

    `connect` opens it, and again after it is lost. `on_append` is called with the newest position after each commit.
    """

    def __init__(
        self,
        connect: "Callable[[], Awaitable[Connection[Record]]]",
        on_append: Callable[[int], None],
    ) -> None:
        # What all sessions of this writer, and no others, are called.
        self.name = f"loopledger appender {token_hex(8)}"
        # A position that the log has reached. Every event of ours whose outcome is unknown lies after it.
        self.known_head = 0
        self.commits = Commits()
        self._connect = connect
        self._on_append = on_append
        self._connection: Connection[Record] | None = None
        # How many times a timeline was accepted, as far as we know.
        self._acceptance = 0
        # What another writer has seen. Ours may lie before that, so it is no place to look for them.
        self._seen_elsewhere = SeenHead(0, 0)

    async def start(self, known: KnownHead | None = None) -> None:
        """Connect, and read the head, which `known` may be ahead of. Raises what `connect` does."""
        connection = await self._connected()
        row = await connection.fetchrow(QUERIES["watch_head"])
        if row is not None:
            self.known_head, self._acceptance = row
        if known is not None:
            self.known_head = max(self.known_head, await position_that_holds(connection, known))

    def disconnect(self) -> None:
        """Close the connection at once. A statement under way may be carried out all the same."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    @property
    def doubt(self) -> Doubt:
        """What is unknown of a batch that was given to `append`, if that failed."""
        return Doubt(self.name, self.known_head, self._acceptance)

    @property
    def seen_head(self) -> SeenHead:
        """What other writers may go by."""
        return SeenHead(self.known_head, self._acceptance)

    def note_head(self, seen: SeenHead) -> None:
        """Have no append accepted by a log that ends before what another writer has seen."""
        self._seen_elsewhere = seen

    @property
    def _least_head(self) -> int:
        """What the log must have reached, unless an operator has accepted a loss since."""
        position, acceptance = self._seen_elsewhere
        return max(self.known_head, position if acceptance >= self._acceptance else 0)

    async def append(self, batch: list[Pending]) -> None:
        """Append a batch, and report where its events went. Raises what Postgres and the driver do."""
        connection = await self._connected()
        started = perf_counter()
        ((base, recorded_at, acceptance),) = await connection.fetch(
            QUERIES["append"], self._least_head, *columns_of(batch)
        )
        self.commits.count(len(batch), perf_counter() - started)
        if acceptance != self._acceptance:
            await self._note_acceptance(connection)
        for position, pending in enumerate(batch, base + 1):
            report(pending, Appended(position, recorded_at))
        self._advance(base + len(batch))

    async def try_nothing(self) -> None:
        """Append no event: raises what an append would. Sees what an operator has accepted first."""
        connection = await self._connected()
        await self._note_acceptance(connection)
        await connection.fetch(QUERIES["append"], self._least_head, *columns_of([]))

    async def recover(self, batch: list[Pending], doubt: Doubt) -> list[Pending]:
        """Find out what became of a batch of unknown outcome; returns what was never committed and is still wanted.

        First the sessions in doubt are ended: one may still wait for the head's lock. After that nobody can commit any
        of the batch, and under the lock no commit is half-way through.
        """
        connection = await self._connected()
        if await connection.fetchval(QUERIES["end_sessions"], doubt.writer) is False:
            problem = "the lost session does not end"
            raise TimeoutError(problem)
        async with connection.transaction():
            ((head, timeline, acceptance, now),) = await connection.fetch(QUERIES["lock_head"])
            if acceptance != self._acceptance:
                await self._note_acceptance(connection)
            # Where an operator accepted a loss since, it may be on record before: the log went back.
            accepted = await connection.fetch(QUERIES["list_acceptances"], doubt.acceptance)
            after = min([doubt.after, *(row["position"] for row in accepted)])
            rows = await connection.fetch(
                QUERIES["find_appended"],
                [pending.event.event_id for pending in batch],
                after,
                [pending.event.stream for pending in batch],
            )
        found: dict[UUID, Appended] = {
            row["event_id"]: Appended(row["position"], row["recorded_at"]) for row in rows
        }
        if refused := timeline != now or head < max(after, self._least_head):
            # What is on record here may not be what was acknowledged there; an append tells what is the matter.
            _disown(found)
        missing: list[Pending] = []
        for pending in batch:
            if appended := found.get(pending.event.event_id):
                report(pending, UnavailableError(problem=IN_DOUBT) if refused else appended)
            elif not pending.reported:
                missing.append(pending)
        if refused:
            return missing
        logger.info(
            "batch_recovered",
            message="A batch of unknown outcome was looked up in the log; what was missing is appended now.",
            on_record=len(found),
            missing=len(missing),
        )
        # None of the rest is on record up to `head`: a later recovery need only look beyond.
        self._advance(head)
        return missing

    def _advance(self, head: int) -> None:
        self.known_head = head
        self._on_append(head)

    async def _note_acceptance(self, connection: "Connection[Record]") -> None:
        """See what an operator has accepted; name what is lost by it, as far as this process knows."""
        row = await connection.fetchrow(QUERIES["watch_head"])
        if row is not None:
            # In a copy from before an acceptance the next one has its number.
            self._acceptance = min(self._acceptance, row["acceptance"])
        rows = await connection.fetch(QUERIES["list_acceptances"], self._acceptance)
        for acceptance, timeline, position in rows:
            logger.warning(
                "failover_accepted",
                message="An operator accepted that the log goes on from here.",
                timeline=timeline,
                head=position,
            )
            elsewhere = self._seen_elsewhere
            known = elsewhere.position if elsewhere.acceptance < acceptance else 0
            known = max(self.known_head, known)
            if position < known:
                logger.critical(
                    "events_lost",
                    message="Events that were on record are not in the accepted log; others get their positions.",
                    first=position + 1,
                    last=known,
                )
            self._acceptance = acceptance
            self.known_head = min(self.known_head, position)

    async def _connected(self) -> "Connection[Record]":
        if self._connection is None or self._connection.is_closed():
            connection = await self._connect()
            try:
                await keep_plans(connection)
                await connection.fetchval(QUERIES["name_session"], self.name)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return self._connection


def _disown(found: "dict[UUID, Appended]") -> None:
    """Log which events are on record though their senders are told otherwise."""
    if found:
        logger.critical(
            "batch_not_acknowledged",
            message="Events are on record whose senders are told to send them again, since the database that holds"
            " them is not accepted.",
            positions=sorted(one.position for one in found.values()),
        )
