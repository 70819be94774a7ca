"""A copy of Loopledger that keeps no timelines, as the query that it is compared with keeps none."""

import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.server_process import ROOT

# What a projection's module says at its end, in a copy of Loopledger that keeps no timelines.
NO_TIMELINES = "\nimport msgspec\nPROJECTION = msgspec.structs.replace(PROJECTION, timeline=None)\n"


def copy_without_timelines(place: Path, projections: Sequence[str]) -> None:
    """Put a copy of Loopledger at `place` of which these projections keep no timelines."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]:
        source, target = ROOT / name.strip("/"), place / name.strip("/")
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for name in projections:
        with (place / "projections" / f"{name}.py").open("a") as module:
            module.write(NO_TIMELINES)
