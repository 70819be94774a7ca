import os
from pathlib import Path

import pytest

from runtime import data_directory as module
from runtime.data_directory import TwoStoresError, data_directory, default_directory, existing_store


def make_store(place: Path) -> Path:
    (place / "postgres").mkdir(parents=True)
    (place / "lock").touch()
    return place


def test_a_chosen_directory_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "data")
    assert data_directory(Path("other")) == tmp_path / "other"


def test_the_default_does_not_depend_on_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path / "checkout")
    found = set()
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.add(data_directory(None))
    assert found == {default_directory().resolve()}


def test_the_default_of_root_lies_where_the_user_of_postgres_can_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    home = Path.home()
    assert not default_directory().is_relative_to(home)


def test_the_default_of_a_user_is_below_their_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_directory().is_relative_to(tmp_path)


def test_a_store_of_an_earlier_version_goes_on_being_used(tmp_path: Path) -> None:
    old = make_store(tmp_path / "data")
    assert existing_store([tmp_path / "default", old]) == old


def test_a_store_is_counted_once_however_it_is_reached(tmp_path: Path) -> None:
    old = make_store(tmp_path / "data")
    (tmp_path / "link").symlink_to(old)
    assert existing_store([tmp_path / "default", old, tmp_path / "link"]) == old


def test_two_stores_are_refused_by_name(tmp_path: Path) -> None:
    one, other = make_store(tmp_path / "default"), make_store(tmp_path / "data")
    with pytest.raises(TwoStoresError, match=f"{one} and {other}. Set LOOPLEDGER_DATA_DIR"):
        existing_store([one, other])


def test_a_directory_of_another_program_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    assert existing_store([tmp_path / "default", tmp_path / "data"]) == tmp_path / "default"
