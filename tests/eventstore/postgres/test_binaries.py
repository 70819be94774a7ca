import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from eventstore.errors import PostgresError
from eventstore.postgres import binaries
from eventstore.postgres.binaries import INSTALLATION, NEEDED, binaries_for, wheel_binaries
from eventstore.postgres.embedded import EmbeddedPostgres

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root runs Postgres as somebody else"
)


@pytest.fixture
def account() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ll-")).resolve()
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def wheel(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What of the wheel a server needs, in a directory that others cannot enter."""
    packages = place / "closed"
    packages.mkdir(mode=0o700)
    installed = wheel_binaries().parents[2]
    for name in NEEDED:
        shutil.copytree(installed / name, packages / name)
    monkeypatch.setattr(binaries, "wheel_binaries", lambda: packages / INSTALLATION / "bin")
    return packages


def version(program: Path) -> str:
    result = subprocess.run(
        [program, "--version"], user="nobody", capture_output=True, text=True, check=True
    )
    return result.stdout


def test_binaries_that_the_user_of_postgres_can_reach_are_run_where_they_are(
    account: pwd.struct_passwd, place: Path, wheel: Path
) -> None:
    wheel.chmod(0o711)
    assert binaries_for(account, place / "copies") == wheel / INSTALLATION / "bin"
    assert not (place / "copies").exists()


def test_binaries_out_of_reach_are_copied_where_they_can_be_run(
    account: pwd.struct_passwd, place: Path, wheel: Path
) -> None:
    found = binaries_for(account, place / "copies")
    assert found.is_relative_to(place / "copies")
    assert not found.is_relative_to(wheel)
    assert version(found / "postgres").startswith("postgres (PostgreSQL) 18")
    assert version(found / "initdb").startswith("initdb (PostgreSQL) 18")


async def test_a_server_runs_from_a_copy(
    place: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "_default_copies", lambda: place / "copies")
    async with EmbeddedPostgres(place / "data") as postgres:
        program = Path(psutil.Process(postgres.postmaster_pid).exe())
    assert program.is_relative_to(place / "copies")
    assert not program.is_relative_to(wheel)


def test_a_copy_is_made_whatever_the_umask(
    account: pwd.struct_passwd, place: Path, wheel: Path
) -> None:
    before = os.umask(0o077)
    try:
        found = binaries_for(account, place / "copies")
    finally:
        os.umask(before)
    assert wheel.exists()
    assert version(found / "postgres").startswith("postgres")


def test_a_copy_is_made_once(account: pwd.struct_passwd, place: Path, wheel: Path) -> None:
    def written() -> dict[Path, int]:
        return {each: each.stat().st_mtime_ns for each in (place / "copies").rglob("*")}

    first = binaries_for(account, place / "copies")
    before = written()
    assert binaries_for(account, place / "copies") == first
    assert written() == before
    assert wheel.exists()


def test_a_copy_that_was_changed_is_mended(
    account: pwd.struct_passwd, place: Path, wheel: Path
) -> None:
    found = binaries_for(account, place / "copies")
    (found / "initdb").write_bytes(b"something else")
    (found / "postgres").unlink()
    assert binaries_for(account, place / "copies") == found
    original = wheel / INSTALLATION / "bin"
    for name in ("initdb", "postgres"):
        assert (found / name).read_bytes() == (original / name).read_bytes()
        assert stat.S_IMODE((found / name).stat().st_mode) == 0o755


@pytest.mark.parametrize("how", ["others may write", "owned by another", "a link"])
def test_a_place_that_others_control_is_refused(
    account: pwd.struct_passwd, place: Path, wheel: Path, how: str
) -> None:
    assert wheel.exists()
    copies = place / "copies"
    if how == "a link":
        (place / "elsewhere").mkdir()
        copies.symlink_to(place / "elsewhere")
    else:
        copies.mkdir()
        if how == "others may write":
            copies.chmod(0o777)
        else:
            shutil.chown(copies, "nobody")
    with pytest.raises(PostgresError, match=r"cannot be copied to .* others may write to it"):
        binaries_for(account, copies)


def test_a_file_that_is_not_what_the_package_came_with_is_not_copied(
    account: pwd.struct_passwd, place: Path, wheel: Path
) -> None:
    with (wheel / INSTALLATION / "bin" / "postgres").open("ab") as file:
        file.write(b"more")
    with pytest.raises(PostgresError, match="is not what the package came with"):
        binaries_for(account, place / "copies")
