"""One projecting process at a time, over any number of servers on one database.

The lock belongs to a session: when its holder dies, Postgres frees it, and another process takes it at its next try.
Postgres may end a session without its process being told, and a process may be cut off from a session that lives on. So
whoever leads asks its session again and again whether it still does, and stops if no answer comes; and whoever wants to
lead ends the session of a leader that has asked for nothing in a while.

In between, two may take themselves for the leader. What keeps two projectors apart is the fence on the checkpoint; what
keeps two rebuilds apart is the term: each begins with another number, and a rebuild's writes hold it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import structlog

from eventstore.errors import TermOverError
from eventstore.postgres.database import RECONNECT_SECONDS, Connect, closed_event
from eventstore.postgres.failures import describe, is_outage
from eventstore.postgres.queries import QUERIES
from eventstore.tasks import in_background, raise_if_cancelled

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.postgres.database import Database, Session

logger = structlog.get_logger()

# Seconds between tries to take the lock.
TRY_SECONDS = 1.0

# Seconds between questions whether this process still leads, and until one without an answer means no.
ASK_SECONDS = 1.0
ANSWER_SECONDS = 5.0

# Seconds without a question after which others end the leader's session: later than it would have given up by itself.
SILENCE_SECONDS = 15.0


class Term(msgspec.Struct, frozen=True):
    """The time for which a process leads, by its number. It is over once another has begun."""

    number: int

    async def hold(self, connection: "Session") -> None:
        """Keep the next term from beginning until the transaction ends. Raises TermOverError."""
        if await connection.fetchval(QUERIES["hold_term"], self.number) is None:
            raise TermOverError(term=self.number)

    @asynccontextmanager
    async def transaction(self, database: "Database") -> AsyncIterator["Session"]:
        """A transaction during which no other term begins. Raises TermOverError."""
        async with database.transaction() as connection:
            await self.hold(connection)
            yield connection

    async def check(self, database: "Database") -> None:
        """See that it is not over yet. Raises TermOverError."""
        if not await database.fetchval(QUERIES["still_leads"], self.number):
            raise TermOverError(term=self.number)


Work: TypeAlias = Callable[[Term], Coroutine[Any, Any, None]]


async def lead(connect: Connect, work: Work) -> None:
    """Do `work` whenever, and for as long as, this process leads; until cancelled.

    An outage of Postgres, at work or beside it, only ends the term. Any other error of `work` is raised.
    """
    while True:
        connection: Connection[Record] | None = None
        try:
            connection = await connect()
            term = await _wait_for_term(connection)
        except Exception as error:  # noqa: BLE001 - whatever it is
            raise_if_cancelled()
            # A password that is being changed, a bug: whatever it is, nobody would notice that this gave up.
            _log_failure(error)
        else:
            await _work_while_leading(connection, term, work)
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(RECONNECT_SECONDS)


async def _wait_for_term(connection: "Connection[Record]") -> Term:
    while not await connection.fetchval(QUERIES["try_to_lead"]):
        await connection.execute(QUERIES["end_silent_leader"], SILENCE_SECONDS)
        await asyncio.sleep(TRY_SECONDS)
    term = Term(await connection.fetchval(QUERIES["begin_term"]))
    logger.info(
        "leadership_gained",
        message="This process is projecting from now on.",
        term=term.number,
    )
    return term


async def _work_while_leading(connection: "Connection[Record]", term: Term, work: Work) -> None:
    async with (
        in_background(_end_of_lead(connection, term)) as ended,
        in_background(work(term)) as working,
    ):
        await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            _raise_unless_outage(working.exception())
            if working.exception() is None:
                # It has nothing left to do: the lead is kept without work.
                await ended
        why = ended.result() if ended.done() else "its work lost Postgres"
    logger.warning(
        "leadership_lost",
        message="This process stopped projecting, because it no longer leads.",
        term=term.number,
        why=why,
    )


async def _end_of_lead(connection: "Connection[Record]", term: Term) -> str:
    """Ask whether this process still leads until it does not, or nobody answers; tells why."""
    async with in_background(closed_event(connection).wait()) as closed:
        while True:
            await asyncio.wait([closed], timeout=ASK_SECONDS)
            if closed.done():
                return "the session that holds its lock ended"
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if not await connection.fetchval(QUERIES["still_leads"], term.number):
                        return "another process began a term"
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                raise_if_cancelled()
                return f"its session does not answer ({describe(error)})"


def _raise_unless_outage(error: BaseException | None) -> None:
    """Raise what the work failed with, unless all of it is an outage."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _raise_unless_outage(each)
    elif error is not None and not is_outage(error) and not isinstance(error, TermOverError):
        raise error


def _log_failure(error: Exception) -> None:
    if is_outage(error):
        logger.debug(
            "lead_awaited",
            message="The connection by which this process tries to lead was lost; connecting again.",
            error=describe(error),
        )
    else:
        logger.error(
            "lead_failed",
            message="This process could not try to lead; trying again.",
            exc_info=error,
        )
