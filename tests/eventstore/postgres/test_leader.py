"""One process leads at a time, and knows when it does not any more."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from eventstore.errors import TermOverError
from eventstore.postgres import database as database_module
from eventstore.postgres import leader
from eventstore.postgres.database import Database
from eventstore.postgres.leader import Term, lead
from eventstore.tasks import in_background
from tests.support.rebuilding import eventually
from tests.support.silent_proxy import SilentProxy

if TYPE_CHECKING:
    from asyncpg import Connection, Record


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask, and give up, soon."""
    monkeypatch.setattr(leader, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(leader, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(leader, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(leader, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(leader, "RECONNECT_SECONDS", 0.05)


class Candidate:
    """A process that leads if it may: `term` while it does, and every term that it had."""

    def __init__(self, dsn: str) -> None:
        self.term: int | None = None
        self.terms: list[int] = []
        self._dsn = dsn

    async def work(self, term: Term) -> None:
        """Note the term, and whether it lasts."""
        self.term = term.number
        self.terms.append(term.number)
        try:
            await asyncio.Event().wait()
        finally:
            self.term = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator["Candidate"]:
        """Try to lead while the block runs."""
        database = Database(self._dsn, pool_connections=1)
        async with in_background(lead(database.connect, self.work)):
            yield self


async def test_a_leader_that_is_cut_off_stops_and_another_takes_over(dsn: str) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(SilentProxy(dsn).run())
        first = await stack.enter_async_context(Candidate(proxy.dsn).run())
        await eventually(lambda: first.term)
        second = await stack.enter_async_context(Candidate(dsn).run())
        proxy.silent.set()
        await eventually(lambda: first.term is None)
        assert second.term is None, "the first gave up before it was put down"
        await eventually(lambda: second.term)
        assert second.terms > first.terms


async def test_a_leader_whose_session_was_ended_without_a_word_finds_out(
    dsn: str, connection: "Connection[Record]"
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(SilentProxy(dsn).run())
        first = await stack.enter_async_context(Candidate(proxy.dsn).run())
        await eventually(lambda: first.term)
        proxy.silent.set()
        await connection.execute("SELECT pg_terminate_backend(pid) FROM leadership")
        second = await stack.enter_async_context(Candidate(dsn).run())
        await eventually(lambda: second.term)
        await eventually(lambda: first.term is None)


async def test_a_leader_that_says_nothing_is_put_down_and_one_that_asks_is_not(
    dsn: str, database: Database
) -> None:
    stopped = await database.connect()
    assert await stopped.fetchval("SELECT pg_try_advisory_lock(hashtext('loopledger projector'))")
    await leader._wait_for_term(stopped)
    async with Candidate(dsn).run() as second:
        for _ in range(8):
            await asyncio.sleep(0.2)
            assert await stopped.fetchval("SELECT true")
        assert second.term is None
        await eventually(lambda: second.term)
    assert stopped.is_closed()


async def test_a_leader_whose_term_another_has_ended_stops_though_its_session_lives(
    dsn: str, connection: "Connection[Record]"
) -> None:
    async with Candidate(dsn).run() as first:
        await eventually(lambda: first.term)
        await connection.execute("UPDATE leadership SET term = term + 1")
        await eventually(lambda: len(first.terms) > 1)
        assert first.terms[1] > first.terms[0] + 1


async def test_a_term_does_not_begin_while_the_last_one_is_being_written_in(
    database: Database, connection: "Connection[Record]"
) -> None:
    last, successor = await database.connect(), await database.connect()
    term = await leader._wait_for_term(last)
    await last.execute("SELECT pg_advisory_unlock_all()")
    async with connection.transaction():
        await term.hold(connection)
        beginning = asyncio.create_task(leader._wait_for_term(successor))
        await asyncio.sleep(0.2)
        assert not beginning.done()
    later = await beginning
    async with connection.transaction():
        with pytest.raises(TermOverError):
            await term.hold(connection)
        await later.hold(connection)
    with pytest.raises(TermOverError):
        await term.check(database)
    last.terminate()
    successor.terminate()


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_error_of_its_work_that_nobody_foresaw_ends_the_lead(
    database: Database,
    wrapped: bool,  # noqa: FBT001
) -> None:
    async def work(_: Term) -> None:
        error = ZeroDivisionError("nobody foresaw this")
        if wrapped:
            message = "several"
            raise ExceptionGroup(message, [ConnectionResetError(), error])
        raise error

    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await lead(database.connect, work)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        ExceptionGroup("several", [asyncpg.AdminShutdownError("gone"), OSError()]),
        TermOverError(term=1),
    ],
)
async def test_an_outage_at_its_work_only_ends_the_term(database: Database, error: Any) -> None:  # noqa: ANN401
    terms: list[int] = []

    async def work(term: Term) -> None:
        terms.append(term.number)
        if len(terms) == 1:
            raise error
        await asyncio.Event().wait()

    async with in_background(lead(database.connect, work)):
        await eventually(lambda: len(terms) == 2)


async def test_a_connection_over_tcp_notices_within_seconds_that_the_other_end_is_gone(
    dsn: str,
) -> None:
    async with SilentProxy(dsn).run() as proxy:
        database = Database(proxy.dsn, pool_connections=1)
        await database.open()
        async with database.transaction() as pooled:
            alone = await database.connect()
            for connection in (pooled._con, alone):  # type: ignore[attr-defined]
                found = connection._transport.get_extra_info("socket")  # type: ignore[union-attr]
                assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                for name, value in database_module.CLIENT_KEEPALIVES.items():
                    assert found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
            alone.terminate()
        await database.close()
