"""The README is executed: every command of the first session, against a real server, with what it says comes out."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from eventstore.settings import Settings
from tests.test_server import ServerProcess

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def session() -> Iterator[tuple[str, str]]:
    """Each command of the console blocks, with the output that follows it."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output.strip()


def test_the_first_session_goes_as_the_readme_says(public_directory: Path) -> None:
    server = ServerProcess(public_directory / "readme")
    try:
        steps = list(session())
        assert len(steps) >= 8
        for command, expected in steps:
            here = re.sub(
                r"\.venv/bin/loopledger (\w+)",
                rf"{sys.executable} -m cli \1 --url {server.url}",
                command.replace("http://127.0.0.1:8080", server.url),
            )
            result = subprocess.run(
                ["/bin/sh", "-c", here],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            pattern = ".*".join(re.escape(part) for part in expected.split("..."))
            assert result.returncode == 0, command
            assert re.fullmatch(pattern, result.stdout.strip(), re.DOTALL), (command, result.stdout)
    finally:
        server.stop()


@pytest.mark.parametrize("target", ["run", "test", "check", "format", "lock"])
def test_the_commands_that_are_named_are_targets_of_the_makefile(target: str) -> None:
    named = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert f"make {target}" in named
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_setting_is_in_the_readme() -> None:
    missing = [
        field.name
        for field in msgspec.structs.fields(Settings)
        if field.name not in {"database_url", "limits", "providers"}
        and f"`LOOPLEDGER_{field.name.upper()}`" not in README
    ]
    assert missing == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str
)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
