"""Whose the embedded Postgres is: an ordinary user's own, an unprivileged one's if root starts it."""

import os
import pwd
import shutil
import stat
from pathlib import Path

import psutil
import pytest

from eventstore.errors import PostgresError
from eventstore.postgres.embedded import EmbeddedPostgres
from tests.support.embedded import IS_ROOT, USER, Serve, fetch

only_root = pytest.mark.skipif(not IS_ROOT, reason="only root runs Postgres as somebody else")


async def test_an_ordinary_user_runs_it_as_themselves(place: Path, serve: Serve) -> None:
    data_dir = place / "own"
    data_dir.mkdir()
    if IS_ROOT:
        shutil.chown(data_dir, USER)
    server = serve(data_dir, *([USER] if IS_ROOT else []))
    uid = pwd.getpwnam(USER).pw_uid if IS_ROOT else os.geteuid()
    assert server.said["uid"] == uid
    assert psutil.Process(server.said["postmaster"]).uids().real == uid
    assert await fetch(server.said["dsn"], "SELECT 1") == 1
    server.process.communicate()
    assert server.process.returncode == 0
    assert not psutil.pid_exists(server.said["postmaster"])


async def test_a_directory_that_cannot_be_written_to_is_refused(place: Path, serve: Serve) -> None:
    (place / "data").mkdir(mode=0o555)
    server = serve(place / "data", *([USER] if IS_ROOT else []))
    assert "Permission denied" in server.said["error"]
    assert str(place / "data") in server.said["error"]


@only_root
async def test_as_root_it_runs_as_an_unprivileged_user(shared: EmbeddedPostgres) -> None:
    process = psutil.Process(shared.postmaster_pid)
    assert process.uids().real == process.uids().saved == pwd.getpwnam(USER).pw_uid
    assert process.gids().real == process.gids().saved == pwd.getpwnam(USER).pw_gid


@only_root
async def test_as_root_a_directory_that_bars_the_way_is_named(place: Path) -> None:
    """And is left as it is."""
    (place / "closed").mkdir(mode=0o700)
    with pytest.raises(PostgresError, match=rf"may not enter {place}/closed\. .*LOOPLEDGER_DATA_D"):
        await EmbeddedPostgres(place / "closed" / "data").start()
    assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o700
    assert list((place / "closed").iterdir()) == []


@only_root
async def test_as_root_an_unprivileged_user_must_exist(place: Path) -> None:
    for name in ("no-such-user", "root"):
        with pytest.raises(PostgresError, match=f"no unprivileged user '{name}'"):
            await EmbeddedPostgres(place, run_as=name).start()
