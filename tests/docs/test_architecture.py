"""What docs/architecture.md names is there."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PRODUCT = ("eventstore", "verification", "providers", "projections", "web", "runtime", "commands")
SOURCES = [file for folder in PRODUCT for file in sorted((ROOT / folder).rglob("*.py"))]
CODE = "\n".join(file.read_text("utf-8") for file in SOURCES)

# What looks like a name of the code: a class, its method, or a constant.
NAMES = re.findall(r"\b([A-Z][a-z]+(?:[A-Z][a-z]+)+|[A-Z]\w+\.[a-z_]+|[A-Z]+(?:_[A-Z]+)+)\b", PAGE)
FILES = re.findall(r"[\w/]+\.(?:py|sql)\b", PAGE)
ROW = re.compile(r"^\| `([\w/]+)/` \| (.*?) \|", re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_every_class_and_constant_that_it_names_exists(name: str) -> None:
    owner, _, method = name.partition(".")
    assert re.search(rf"^(class )?{owner}\b", CODE, re.MULTILINE)
    assert not method or re.search(rf"def {method}\(", CODE)


@pytest.mark.parametrize("name", sorted({name for name in FILES if "/" in name}))
def test_every_path_that_it_names_exists(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("folder", [folder for folder, _ in ROW.findall(PAGE)])
def test_every_folder_that_it_lists_has_the_files_that_it_names_there(folder: str) -> None:
    (described,) = (text for name, text in ROW.findall(PAGE) if name == folder)
    files = re.findall(r"`(\w+\.py)`", described)
    assert (ROOT / folder).is_dir()
    assert [name for name in files if not (ROOT / folder / name).is_file()] == []


def test_every_folder_of_the_engine_is_listed() -> None:
    listed = {folder for folder, _ in ROW.findall(PAGE)}
    folders = {f"eventstore/{Path(each).parent.name}" for each in ROOT.glob("eventstore/*/*.py")}
    assert folders <= listed
    assert set(PRODUCT) <= listed | {"simulation"}
