"""Who gets into the embedded server, and what is refused in its data directory."""

import os
import pwd
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from eventstore.errors import PostgresError
from eventstore.postgres.binaries import binaries_for
from eventstore.postgres.embedded import EmbeddedPostgres
from eventstore.postgres.processes import run
from eventstore.postgres.roles import ADMIN, OWNER, PROJECTOR, READER, RECEIVER, with_password
from tests.support.embedded import IS_ROOT, USER, execute, fetch

ROLES = (ADMIN, OWNER, RECEIVER, PROJECTOR, READER)

only_root = pytest.mark.skipif(not IS_ROOT, reason="only root has to mind whose files they are")

# What a cluster of an earlier version let in: anybody who reaches its socket.
TRUST = "local all all trust\n"


def password(data: Path, role: str) -> str:
    return (data / "passwords" / role).read_text().strip().rpartition(":")[2]


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_gets_in_with_its_password_only(shared: EmbeddedPostgres, role: str) -> None:
    dsn = shared.dsn_for(role)
    assert await fetch(dsn, "SELECT current_user") == role
    for wrong in ("", "wrong", password(shared._cluster.data_dir, OWNER)[::-1]):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn.partition("&passfile")[0], password=wrong)


async def test_a_password_is_on_disk_for_us_alone_and_shown_nowhere_else(
    shared: EmbeddedPostgres,
) -> None:
    data = shared._cluster.data_dir
    secrets = [password(data, role) for role in ROLES]
    assert len({secret for secret in secrets if len(secret) == 64}) == len(ROLES)
    for file in (data / "passwords").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_uid == os.geteuid()
    assert stat.S_IMODE((data / "passwords").stat().st_mode) == 0o700
    process = psutil.Process(shared.postmaster_pid)
    shown = [
        " ".join(process.cmdline()),
        str(process.environ()),
        (data / "postgres.log").read_text(),
        *(shared.dsn_for(role) for role in ROLES),
    ]
    assert not [secret for secret in secrets for each in shown if secret in each]


@only_root
@pytest.mark.parametrize("role", ROLES)
def test_another_user_who_reaches_the_socket_is_refused(
    shared: EmbeddedPostgres, role: str
) -> None:
    """Even the one that Postgres runs as."""
    account = pwd.getpwnam(USER)
    host = shared._cluster.socket_dir
    status, output = run(
        account,
        [
            binaries_for(account) / "psql",
            f"host={host} user={role} dbname=loopledger",
            *("-w", "-c", "SELECT 1"),
        ],
        Path("/"),
    )
    assert status == 2
    assert "no password supplied" in output


async def test_a_store_that_let_everybody_in_is_changed_at_its_next_start(data: Path) -> None:
    """What it holds is kept, and becomes its owner's; twice, as if the first time had been cut off."""
    postgres = EmbeddedPostgres(data)
    async with postgres:
        await execute(postgres.dsn_for(ADMIN), "CREATE TABLE kept AS SELECT 42 AS answer")
    for _ in range(2):
        (data / "postgres" / "pg_hba.conf").write_text(TRUST)
        shutil.rmtree(data / "passwords")
        async with postgres:
            assert await fetch(postgres.dsn, "SELECT answer FROM kept") == 42
            owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'kept'"
            assert await fetch(postgres.dsn, owner) == OWNER
            assert "trust" not in (data / "postgres" / "pg_hba.conf").read_text()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(postgres.dsn.partition("&passfile")[0], password="")


async def test_a_password_that_was_lost_is_made_anew(data: Path) -> None:
    before = password(data, OWNER)
    (data / "passwords" / OWNER).unlink()
    async with EmbeddedPostgres(data) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1
    assert password(data, OWNER) != before


async def test_a_cluster_with_other_passwords_than_those_on_disk_gets_these(data: Path) -> None:
    line = f"*:*:*:{OWNER}:{'0' * 64}\n"
    (data / "passwords" / OWNER).write_text(line)
    async with EmbeddedPostgres(data) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1


async def test_a_url_with_its_password_needs_no_file(data: Path) -> None:
    async with EmbeddedPostgres(data) as postgres:
        dsn = with_password(postgres.dsn)
        (data / "passwords" / OWNER).rename(data / "passwords" / "elsewhere")
        assert await fetch(dsn, "SELECT 1") == 1
        assert "passfile" not in dsn


async def test_the_superuser_has_no_session_after_the_start(data: Path) -> None:
    async with EmbeddedPostgres(data) as postgres:
        users = "SELECT array_agg(usename) FROM pg_stat_activity WHERE datname IS NOT NULL"
        assert await fetch(postgres.dsn, users) == [OWNER]


def link(name: str) -> Callable[[Path, Path], None]:
    def make(data: Path, elsewhere: Path) -> None:
        target = elsewhere / name
        if (data / name).exists():
            (data / name).rename(target)
        else:
            target.mkdir()
        (data / name).symlink_to(target)

    return make


def stranger(data: Path, _: Path) -> None:
    (data / "letters").mkdir()


def somebodys(data: Path, _: Path) -> None:
    os.chown(data / "lock", 12345, 12345)


REFUSED = {
    "a link to the socket's directory": (link("socket"), "socket is a link"),
    "a link to the cluster": (link("postgres"), "postgres is a link"),
    "a link to the passwords": (link("passwords"), "passwords is a link"),
    "a link to the log": (link("postgres.log"), "postgres.log is a link"),
    "a link to the lock": (link("lock"), "lock is a link"),
    "a link for what initdb makes": (link("postgres.new"), "postgres.new is a link"),
    "a stranger's directory": (stranger, "holds letters"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_data_directory_with_what_is_not_ours_is_refused_and_left_as_it_is(
    place: Path, data: Path, what: str
) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    change, problem = REFUSED[what]
    change(data, elsewhere)
    (elsewhere / "precious").write_text("kept")
    before = snapshot(place)
    with pytest.raises(PostgresError, match=problem):
        await EmbeddedPostgres(data).start()
    assert snapshot(place) == before


def snapshot(place: Path) -> dict[str, tuple[int, int]]:
    found = {each: each.lstat() for each in place.rglob("*")}
    return {str(each): (stat_.st_mode, stat_.st_uid) for each, stat_ in found.items()}


@only_root
async def test_as_root_a_file_of_another_user_is_not_taken_over(data: Path) -> None:
    somebodys(data, data)
    with pytest.raises(PostgresError, match="lock belongs to the user 12345"):
        await EmbeddedPostgres(data).start()


@only_root
async def test_as_root_a_directory_of_another_user_is_not_taken_over(data: Path) -> None:
    os.chown(data, 12345, 12345)
    with pytest.raises(PostgresError, match=f"{data} belongs to the user 12345"):
        await EmbeddedPostgres(data).start()


@only_root
async def test_as_root_a_second_name_of_a_file_is_not_followed_where_others_may_write(
    place: Path, data: Path
) -> None:
    """In the directory of Postgres's user, who may have put it there."""
    account = pwd.getpwnam(USER)
    (place / "precious").write_text("kept")
    os.chown(data, account.pw_uid, account.pw_gid)
    (data / "postgres.log").unlink()
    (data / "postgres.log").hardlink_to(place / "precious")
    with pytest.raises(PostgresError, match=r"postgres.log has a second name"):
        await EmbeddedPostgres(data).start()
    assert (place / "precious").read_text() == "kept"


async def test_what_a_file_system_leaves_in_a_volume_is_let_alone(data: Path) -> None:
    for name in ("lost+found", ".snapshot"):
        (data / name).mkdir()
    async with EmbeddedPostgres(data) as postgres:
        assert await fetch(postgres.dsn, "SELECT 1") == 1


@only_root
async def test_members_of_the_group_reach_the_socket_and_need_a_password_too(data: Path) -> None:
    group = pwd.getpwnam("daemon").pw_gid
    async with EmbeddedPostgres(data, group=group) as postgres:
        found = (data / "socket").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o710, group)
        assert await fetch(postgres.dsn, "SELECT 1") == 1
