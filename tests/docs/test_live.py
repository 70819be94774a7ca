"""The page about live streams is executed."""

from pathlib import Path

from benchmarks.harness.server_process import free_port
from tests.support import ROOT
from tests.support.documented import follow, steps
from tests.support.server_process import ServerProcess

STEPS = steps((ROOT / "docs" / "live.md").read_text("utf-8"))


def test_the_page_goes_as_it_says(data_dir: Path, tmp_path: Path) -> None:
    assert len(STEPS) >= 6
    server = ServerProcess(data_dir)
    try:
        for step in STEPS:
            command = step.command.replace("listen.json", f"'{tmp_path / 'listen.json'}'")
            command = command.replace("9900", str(free_port()))
            follow(step._replace(command=command), server.url)
    finally:
        server.stop()
