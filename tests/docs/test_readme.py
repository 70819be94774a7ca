"""The README is executed: every command of the first session, against a real server, with what it says comes out."""

import re
from pathlib import Path

import msgspec
import pytest

from runtime.settings import Settings
from tests.support import ROOT
from tests.support.documented import follow, steps
from tests.support.server_process import ServerProcess

README = (ROOT / "README.md").read_text("utf-8")


def test_the_first_session_goes_as_the_readme_says(data_dir: Path) -> None:
    session = steps(README)
    assert len(session) >= 8
    server = ServerProcess(data_dir)
    try:
        for step in session:
            follow(step, server.url, data_dir)
    finally:
        server.stop()


@pytest.mark.parametrize("target", ["run", "test", "check", "format", "lock", "torture", "bench"])
def test_the_commands_that_are_named_are_targets_of_the_makefile(target: str) -> None:
    named = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"make {target}" in named
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_setting_is_in_the_readme() -> None:
    missing = [
        field.name
        for field in msgspec.structs.fields(Settings)
        if field.name not in {"database_url", "limits", "providers", "sources"}
        and f"`LOOPLEDGER_{field.name.upper()}`" not in README
    ]
    assert missing == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str
)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
