"""Documentation that is executed: the commands of a page's console blocks, and that what it says comes out."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT

# Where a server is, in every page.
ADDRESS = "http://127.0.0.1:8080"


class Step(NamedTuple):
    """A command of a console block, and the output that follows it there; `...` stands for anything."""

    command: str
    output: str


def steps(page: str) -> list[Step]:
    """Each command of a page's console blocks, in order."""
    return [
        Step(command, output.strip())
        for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL)
        for command, _, output in (
            part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        )
    ]


def follow(step: Step, url: str, data_dir: Path | None = None) -> None:
    """Run the command of a step against the server at `url`; what comes out has to be what the page says.

    With its `data_dir` a command finds its local key.
    """
    command = re.sub(
        r"(?:\.venv/bin/)?\bloopledger (\w+)",
        rf"{shlex.quote(sys.executable)} -m commands \1 --url {url}",
        step.command.replace(ADDRESS, url),
    )
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, **({} if data_dir is None else {"LOOPLEDGER_DATA_DIR": str(data_dir)})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # A command names the server in what it proposes, if it is not the usual one.
    printed = result.stdout.replace(f" --url {url}", "").replace(url, ADDRESS)
    printed = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    pattern = ".*".join(re.escape(part) for part in step.output.split("..."))
    assert result.returncode == 0, (step.command, printed, result.stderr)
    assert re.fullmatch(pattern, printed, re.DOTALL), (step.command, printed)
