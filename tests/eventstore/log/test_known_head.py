"""How far a log has reached is remembered outside its database, so that an older copy of that is not written to."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from structlog.testing import capture_logs

from eventstore.errors import UnavailableError
from eventstore.limits import Limits
from eventstore.log.appender import REFUSED_PAUSE, Appender
from eventstore.log.failover import accept_timeline
from eventstore.log.known_head import DIRECTORY, HeadMemory, KnownHead
from eventstore.postgres.database import Database
from tests.support import new_event
from tests.support.appending import until
from tests.support.log import Log

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from eventstore.log.events import Appended

# As if the database were that of before the last two events.
GO_BACK = """
ALTER TABLE log_head DISABLE TRIGGER ALL;
ALTER TABLE events DISABLE TRIGGER ALL;
ALTER TABLE events_1 DISABLE TRIGGER ALL;
DELETE FROM events WHERE position > 3;
UPDATE log_head SET position = 3;
"""


async def remember(
    data_dir: Path, database: Database, connection: "Connection[Record]"
) -> HeadMemory:
    memory = HeadMemory(data_dir, database.connect)
    await memory.load()
    await memory.look(connection)
    return memory


async def append_once(database: Database, known: KnownHead | None) -> "Appended":
    appender = Appender(database.connect, Limits(), lambda _: None)
    await appender.start(known)
    try:
        return await appender.append(new_event())
    finally:
        await appender.stop()


@pytest.fixture
async def five(log: Log) -> None:
    for _ in range(5):
        await log.appender.append(new_event())
    await log.stop()


@pytest.mark.usefixtures("five")
async def test_an_older_database_takes_no_appends_after_a_restart_of_everything(
    data_dir: Path, database: Database, connection: "Connection[Record]"
) -> None:
    await remember(data_dir, database, connection)
    await connection.execute(GO_BACK)
    with capture_logs() as logs:
        memory = await remember(data_dir, database, connection)
    (behind,) = [one for one in logs if one["event"] == "log_behind"]
    assert (behind["log_level"], behind["head"], behind["known"]) == ("critical", 3, 5)
    assert memory.known is not None
    assert memory.known.position == 5, "a head that is behind is not believed"
    with pytest.raises(
        UnavailableError, match=r"known to have reached 5.*loopledger failover accept"
    ):
        await append_once(database, memory.known)
    assert await connection.fetchval("SELECT count(*) FROM events") == 3


@pytest.mark.usefixtures("five")
async def test_once_an_operator_accepts_the_loss_the_log_goes_on_and_that_is_remembered(
    data_dir: Path, database: Database, connection: "Connection[Record]"
) -> None:
    await remember(data_dir, database, connection)
    await connection.execute(GO_BACK)
    await accept_timeline(database)
    memory = await remember(data_dir, database, connection)
    assert memory.known is not None
    assert memory.known.position == 3
    assert (await append_once(database, memory.known)).position == 4


@pytest.mark.usefixtures("five")
async def test_a_loss_that_is_accepted_after_the_clock_was_set_back_counts_as_accepted(
    data_dir: Path, database: Database, connection: "Connection[Record]"
) -> None:
    memory = await remember(data_dir, database, connection)
    assert memory.known is not None
    known = msgspec.structs.replace(memory.known, at=memory.known.at + timedelta(hours=1))
    await connection.execute(GO_BACK)
    with pytest.raises(UnavailableError):
        await append_once(database, known)
    await accept_timeline(database)
    assert (await append_once(database, known)).position == 4


@pytest.mark.usefixtures("five")
async def test_a_loss_that_is_accepted_in_a_copy_from_before_another_was_counts_as_accepted(
    database: Database, connection: "Connection[Record]"
) -> None:
    await accept_timeline(database)
    appender = Appender(database.connect, Limits(append_seconds=30), lambda _: None)
    await appender.start()
    await appender.append(new_event())
    await connection.execute(GO_BACK)
    await connection.execute(
        "ALTER TABLE timelines DISABLE TRIGGER ALL;"
        "DELETE FROM timelines WHERE acceptance = 2; UPDATE log_head SET acceptance = 1"
    )
    with pytest.raises(UnavailableError):
        await appender.append(new_event())
    await asyncio.sleep(2 * REFUSED_PAUSE)
    await accept_timeline(database)
    await until(lambda: resumed(appender))
    assert (await appender.append(new_event())).position == 4
    await appender.stop()


async def resumed(appender: Appender) -> bool:
    return appender.refusal is None


@pytest.mark.usefixtures("five")
async def test_another_log_is_not_taken_for_this_one(
    data_dir: Path, database: Database, connection: "Connection[Record]"
) -> None:
    await remember(data_dir, database, connection)
    (file,) = (data_dir / DIRECTORY).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    system, base, log = file.stem.split("-")
    for other in (f"1-{base}-{log}", f"{system}-1-{log}", f"{system}-{base}-1"):
        file.rename(file.with_name(f"{other}.json"))
        memory = HeadMemory(data_dir, database.connect)
        await memory.load()
        assert memory.known is None
        (file,) = (data_dir / DIRECTORY).iterdir()


@pytest.mark.usefixtures("five")
async def test_it_is_written_only_when_the_log_has_grown(
    data_dir: Path, database: Database, connection: "Connection[Record]"
) -> None:
    memory = await remember(data_dir, database, connection)
    (file,) = (data_dir / DIRECTORY).iterdir()
    before = file.stat().st_ino
    await memory.look(connection)
    assert file.stat().st_ino == before
    await append_once(database, memory.known)
    await memory.look(connection)
    assert b'"position":6' in file.read_bytes()


@pytest.mark.parametrize("text", ["", "{", '{"position":"5"}'])
@pytest.mark.usefixtures("five")
async def test_what_cannot_be_read_is_said_and_forgotten(
    data_dir: Path, database: Database, connection: "Connection[Record]", text: str
) -> None:
    await remember(data_dir, database, connection)
    (file,) = (data_dir / DIRECTORY).iterdir()
    file.write_text(text)
    with capture_logs() as logs:
        memory = await remember(data_dir, database, connection)
    assert [one["event"] for one in logs] == ["known_head_not_kept"]
    assert memory.known is not None
    assert memory.known.position == 5


@pytest.mark.usefixtures("five")
async def test_a_directory_that_cannot_be_used_is_said_once_and_stops_nothing(
    tmp_path: Path, database: Database, connection: "Connection[Record]"
) -> None:
    (tmp_path / "file").write_text("")
    with capture_logs() as logs:
        memory = await remember(tmp_path / "file", database, connection)
        task = asyncio.create_task(memory.run())
        await asyncio.sleep(0.1)
        task.cancel()
    assert [one["event"] for one in logs] == ["known_head_not_kept"]


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture
def linked(data_dir: Path, tmp_path: Path) -> Path:
    """Where a link in the data directory leads."""
    data_dir.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (data_dir / DIRECTORY).symlink_to(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.mark.usefixtures("five")
async def test_nothing_is_reached_through_a_link(
    linked: Path, data_dir: Path, database: Database, connection: "Connection[Record]"
) -> None:
    with capture_logs() as logs:
        await remember(data_dir, database, connection)
    assert "is a link" in logs[0]["error"]
    assert names_in(linked) == []
